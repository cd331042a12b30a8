/**
 * The reference of a preference job: log-probabilities of every answer under the weights the job starts from (the base
 * model, the tuned model it continues, or a full model), measured once before the first step and part of every
 * checkpoint. Frozen weights give the same numbers in every epoch, so no second model is held and no step computes them.
 */
import { examplesOf, sequentialBatches } from '../engine/data/batches.ts';
import type { Dataset } from '../engine/data/dataset.ts';
import { sequenceLogProbs } from '../engine/losses/preference.ts';
import type { Model } from '../engine/models/index.ts';
import type { JobData } from './dataset.ts';
import type { TrainingPlan } from './plan.ts';

/** Values of sequences 2i (preferred) and 2i + 1 (other) of example i; NaN: not measured. Views of one array. */
export interface ReferenceLogProbs {
  training: Float64Array;
  validation: Float64Array;
}

/** An array with a place for every sequence of both files. */
export function emptyReference({ training, validation }: JobData): Float64Array {
  return new Float64Array(2 * (training.length + (validation?.length ?? 0))).fill(Number.NaN);
}

/** @throws when the array was made for other data */
export function splitReference(values: Float64Array, { training, validation }: JobData): ReferenceLogProbs {
  const expected = 2 * (training.length + (validation?.length ?? 0));
  if (values.length !== expected) {
    throw new Error(
      `the checkpoint holds ${values.length} reference log-probabilities, the data needs ${expected}`,
    );
  }
  return {
    training: values.subarray(0, 2 * training.length),
    validation: values.subarray(2 * training.length),
  };
}

export interface MeasureOptions {
  model: Model;
  data: JobData;
  plan: TrainingPlan;
  reference: ReferenceLogProbs;
  /** Lets messages in and out; true when the work shall stop. */
  turn: () => Promise<boolean>;
}

/**
 * Measures what is missing, for the pairs that the plan visits; the model must stand as it does before step 1.
 * @returns false when told to stop before the end
 */
export async function measureReference(options: MeasureOptions): Promise<boolean> {
  const { model, data, plan, reference, turn } = options;
  const isVisited = visitedExamples(data.training, plan);
  const parts: [Dataset | null, Float64Array, (i: number) => boolean][] = [
    [data.training, reference.training, isVisited],
    [data.validation, reference.validation, () => true],
  ];
  for (const [dataset, values, isNeeded] of parts) {
    if (dataset === null) continue;
    const isMissing = (i: number) => isNeeded(i) && Number.isNaN(values[2 * i]!);
    for (const batch of sequentialBatches(dataset, plan.maxTokensPerPack, isMissing)) {
      const logProbs = sequenceLogProbs(model, batch);
      batch.examples.forEach((example, k) => {
        values.set(logProbs.subarray(2 * k, 2 * k + 2), 2 * example);
      });
      if (await turn()) return false;
    }
  }
  return true;
}

/** Which examples the steps of the plan see: all of them, unless it ends within its first epoch. */
function visitedExamples(dataset: Dataset, plan: TrainingPlan): (i: number) => boolean {
  if (plan.totalSteps >= plan.stepsPerEpoch) return () => true;
  const visited = new Set<number>();
  for (let step = 0; step < plan.totalSteps; step++) {
    for (const i of examplesOf(dataset, { batchSize: plan.batchSize, seed: plan.seed, step })) visited.add(i);
  }
  return (i) => visited.has(i);
}
