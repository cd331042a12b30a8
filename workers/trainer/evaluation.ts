/** Loss and token accuracy on the validation file: one batch between epochs, the whole file at their ends. */
import { batchesOf, evaluationBatches } from '../engine/data/batches.ts';
import type { Dataset } from '../engine/data/dataset.ts';
import { evaluate, type LossSums } from '../engine/losses/supervised.ts';
import type { Model, PackedBatch } from '../engine/models/index.ts';
import { LossDiverged } from './failures.ts';
import type { TrainingPlan } from './plan.ts';

export interface Measured {
  /** Mean loss of a labelled token (natural log). */
  loss: number;
  /** Share of labelled tokens whose most likely prediction is right. */
  accuracy: number;
}

/** The validation batch of a step (1-based): a pure function of the step, so that a resumed job measures the same. */
export function measureBatch(model: Model, validation: Dataset, plan: TrainingPlan, step: number): Measured {
  const { batchSize, maxTokensPerPack: maxTokens, seed } = plan;
  const sums = emptySums();
  for (const batch of batchesOf(validation, { batchSize, maxTokens, seed, step: step - 1 })) {
    addSums(sums, evaluate(model, batch));
  }
  return meanOf(sums, step);
}

/** The whole file. `breathe` is called between batches: it may take long. */
export async function measureAll(
  model: Model,
  validation: Dataset,
  plan: TrainingPlan,
  step: number,
  breathe: () => Promise<unknown>,
): Promise<Measured> {
  const sums = emptySums();
  for (const batch of evaluationBatches(validation, plan.maxTokensPerPack)) {
    addSums(sums, evaluate(model, batch));
    await breathe();
  }
  return meanOf(sums, step);
}

export function emptySums(): LossSums {
  return { lossSum: 0, labelled: 0, correct: 0 };
}

export function addSums(to: LossSums, from: LossSums): void {
  to.lossSum += from.lossSum;
  to.labelled += from.labelled;
  to.correct += from.correct;
}

/** @throws LossDiverged when the mean is not a number: the weights are already ruined */
function meanOf({ lossSum, labelled, correct }: LossSums, step: number): Measured {
  const loss = lossSum / labelled;
  if (!Number.isFinite(loss)) throw new LossDiverged(step, `the validation loss is ${loss}`);
  return { loss, accuracy: correct / labelled };
}

/** Labelled tokens of a batch. */
export function labelledOf(batch: PackedBatch): number {
  let count = 0;
  for (const target of batch.targets) if (target >= 0) count += 1;
  return count;
}
