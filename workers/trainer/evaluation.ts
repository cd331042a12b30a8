/** The objective on the validation file: one batch between epochs, the whole file at their ends. */
import { batchesOf, evaluationBatches } from '../engine/data/batches.ts';
import type { Dataset } from '../engine/data/dataset.ts';
import type { Model } from '../engine/models/index.ts';
import { LossDiverged } from './failures.ts';
import type { Measured } from './measured.ts';
import { addSums, type Objective, type Sums } from './objective.ts';
import type { TrainingPlan } from './plan.ts';

/** The validation batch of a step (1-based): a pure function of the step, so that a resumed job measures the same. */
export function measureBatch(
  objective: Objective,
  model: Model,
  validation: Dataset,
  plan: TrainingPlan,
  step: number,
): Measured {
  const { batchSize, maxTokensPerPack: maxTokens, seed } = plan;
  const sums: Sums = {};
  for (const batch of batchesOf(validation, { batchSize, maxTokens, seed, step: step - 1 })) {
    addSums(sums, objective.evaluate(model, batch));
  }
  return meanOf(objective, sums, step);
}

/** The whole file. `breathe` is called between batches: it may take long. */
export async function measureAll(
  objective: Objective,
  model: Model,
  validation: Dataset,
  plan: TrainingPlan,
  step: number,
  breathe: () => Promise<unknown>,
): Promise<Measured> {
  const sums: Sums = {};
  for (const batch of evaluationBatches(validation, plan.maxTokensPerPack)) {
    addSums(sums, objective.evaluate(model, batch));
    await breathe();
  }
  return meanOf(objective, sums, step);
}

/** @throws LossDiverged when the mean is not a number: the weights are already ruined */
function meanOf(objective: Objective, sums: Sums, step: number): Measured {
  const measured = objective.measure(sums);
  if (!Number.isFinite(measured.loss))
    throw new LossDiverged(step, `the validation loss is ${measured.loss}`);
  return measured;
}
