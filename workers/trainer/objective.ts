/**
 * What a method optimises, as the training loop sees it: gradients of a batch, the same sums without gradients, and what
 * the sums mean. Supervised averages over labelled tokens, DPO over pairs. Knows no steps, files or messages.
 */
import type { ExampleBatch } from '../engine/data/batches.ts';
import {
  accumulatePreferenceGradients,
  evaluatePreference,
  type PreferenceSums,
} from '../engine/losses/preference.ts';
import type { RecordedBatches } from '../engine/losses/recorded-batches.ts';
import { accumulateGradientsLater, evaluate, type LossSums } from '../engine/losses/supervised.ts';
import type { Model, PackedBatch } from '../engine/models/index.ts';
import type { JobData } from './dataset.ts';
import type { Measured, PREFERENCE_METRICS } from './measured.ts';
import type { TrainRequest } from './messages.ts';
import { emptyReference, measureReference, type ReferenceLogProbs, splitReference } from './reference.ts';
import type { Training } from './training-state.ts';

/** Named sums; those of several batches are added by name. */
export type Sums = Record<string, number>;

export interface AccumulateAt {
  /** Σ weightOf over the batches of the whole optimizer step. */
  total: number;
  seed: number;
  step: number;
  microBatch: number;
  recompute: boolean;
}

export interface Objective {
  /** What the loss is averaged over. */
  weightOf: (batch: ExampleBatch) => number;
  /** Adds the gradient of (loss of the batch) / total to the trainable parameters; the result waits for the sums. */
  accumulate: (model: Model, batch: ExampleBatch, at: AccumulateAt) => () => Sums;
  /** A batch of the validation file. */
  evaluate: (model: Model, batch: ExampleBatch) => Sums;
  measure: (sums: Sums) => Measured;
}

/** How an objective's preparation is kept alive, and saved when it took long or must stop. */
export interface Preparation {
  turn: () => Promise<boolean>;
  isSaveDue: () => boolean;
  save: (kind: 'state', metrics: Record<string, number>) => Promise<void>;
}

/**
 * The job's objective, ready for the next step: DPO measures its reference first, or takes up a measurement that an
 * earlier attempt began. `recorded`: for supervised jobs. @returns null when told to stop meanwhile, with what was
 * measured saved
 */
export async function prepareObjective(
  { plan }: Pick<TrainRequest, 'plan'>,
  data: JobData,
  training: Training,
  { turn, isSaveDue, save }: Preparation,
  recorded: RecordedBatches | null = null,
): Promise<Objective | null> {
  const { method } = plan;
  if (method.type === 'supervised') return supervisedObjective(recorded);
  training.reference ??= emptyReference(data);
  const reference = splitReference(training.reference, data);
  const { model, state } = training;
  if (state.step === 0) {
    const isComplete = await measureReference({ model, data, plan, reference, turn });
    if (!isComplete || isSaveDue()) await save('state', {});
    if (!isComplete) return null;
  }
  return dpoObjective(method.beta, reference);
}

/** Next-token loss over labelled tokens; micro-batches that `recorded` takes are run by it. */
export function supervisedObjective(recorded: RecordedBatches | null = null): Objective {
  return {
    weightOf: labelledOf,
    accumulate: (model, batch, { total, ...at }) => {
      const read = accumulateGradientsLater(model, batch, { labelledTotal: total, recorded, ...at });
      return () => ({ ...read() });
    },
    evaluate: (model, batch) => ({ ...evaluate(model, batch) }),
    measure: (sums) => {
      const { lossSum, labelled, correct } = sums as unknown as LossSums;
      return { loss: lossSum / labelled, accuracy: correct / labelled };
    },
  };
}

/** Direct preference optimisation against fixed log-probabilities of both files' answers. */
function dpoObjective(beta: number, reference: ReferenceLogProbs): Objective {
  return {
    weightOf: (batch) => batch.examples.length,
    accumulate: (model, batch, { total, ...at }) => {
      const options = { beta, pairsTotal: total, ...at };
      const sums = accumulatePreferenceGradients(model, batch, valuesOf(reference.training, batch), options);
      return () => ({ ...sums });
    },
    evaluate: (model, batch) => ({
      ...evaluatePreference(model, batch, valuesOf(reference.validation, batch), beta),
    }),
    measure: (sums) => measuredPairs(sums as unknown as PreferenceSums),
  };
}

function measuredPairs(sums: PreferenceSums): Measured {
  const { pairs, rewardChosen, rewardRejected } = sums;
  const means: Record<(typeof PREFERENCE_METRICS)[number], number> = {
    'rewards/chosen': rewardChosen / pairs,
    'rewards/rejected': rewardRejected / pairs,
    'rewards/accuracies': sums.accurate / pairs,
    'rewards/margins': (rewardChosen - rewardRejected) / pairs,
    'logps/chosen': sums.logpChosen / pairs,
    'logps/rejected': sums.logpRejected / pairs,
  };
  return { loss: sums.lossSum / pairs, accuracy: sums.chosenCorrect / sums.chosenTokens, more: means };
}

/** The reference's values of a batch's sequences. @throws when one was never measured */
function valuesOf(values: Float64Array, { examples }: ExampleBatch): Float64Array {
  const found = Float64Array.from(examples.flatMap((i) => [values[2 * i]!, values[2 * i + 1]!]));
  if (found.some(Number.isNaN)) throw new Error('the reference log-probabilities of a pair are missing');
  return found;
}

export function addSums(to: Sums, from: Sums): void {
  for (const [name, value] of Object.entries(from)) to[name] = (to[name] ?? 0) + value;
}

/** Labelled tokens of a batch. */
export function labelledOf(batch: PackedBatch): number {
  let count = 0;
  for (const target of batch.targets) if (target >= 0) count += 1;
  return count;
}
