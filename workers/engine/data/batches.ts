/**
 * Which examples a training step sees: a pure function of (dataset, options, global step), so a resumed job needs to
 * know only its step.
 */
import type { Dataset } from './dataset.ts';
import { epochOrder } from './order.ts';
import { concatenate, type PackedBatch, packIndices } from './pack.ts';

/** A packed batch that knows whose sequences it holds: the dataset's indices of its examples, in order. */
export interface ExampleBatch extends PackedBatch {
  examples: number[];
}

export interface BatchOptions {
  /** Examples per optimizer step; the last step of an epoch takes what is left. */
  batchSize: number;
  /** Most tokens of one pack (micro-batch). */
  maxTokens: number;
  seed: number;
  /** Global step, from 0; epoch = ⌊step / stepsPerEpoch⌋. */
  step: number;
}

/** Optimizer steps of one epoch. */
export function stepsPerEpoch(examples: number, batchSize: number): number {
  if (examples < 1 || batchSize < 1) throw new RangeError('an epoch needs examples and a batch size');
  return Math.ceil(examples / batchSize);
}

/** The last order drawn for each dataset: consecutive steps of an epoch share it. */
const lastOrder = new WeakMap<Dataset, { seed: number; epoch: number; length: number; order: Uint32Array }>();

function orderOf(dataset: Dataset, seed: number, epoch: number): Uint32Array {
  const last = lastOrder.get(dataset);
  if (last?.seed === seed && last.epoch === epoch && last.length === dataset.length) return last.order;
  const order = epochOrder(dataset.length, seed, epoch);
  lastOrder.set(dataset, { seed, epoch, length: dataset.length, order });
  return order;
}

/** The examples of one step, in the epoch's order. */
export function examplesOf(dataset: Dataset, options: Omit<BatchOptions, 'maxTokens'>): Uint32Array {
  const { batchSize, seed, step } = options;
  const steps = stepsPerEpoch(dataset.length, batchSize);
  const start = (step % steps) * batchSize;
  return orderOf(dataset, seed, Math.floor(step / steps)).subarray(start, start + batchSize);
}

/** The micro-batches of global step `step`: its examples, greedily packed. */
export function batchesOf(dataset: Dataset, options: BatchOptions): ExampleBatch[] {
  const chosen = examplesOf(dataset, options);
  const lengths = Array.from(chosen, (i) => dataset.positions(i));
  return packIndices(lengths, options.maxTokens).map((members) =>
    packExamples(
      dataset,
      members.map((k) => chosen[k]!),
    ),
  );
}

/** One batch of these examples, each with all its sequences side by side. */
function packExamples(dataset: Dataset, examples: number[]): ExampleBatch {
  return { ...concatenate(examples.flatMap((i) => dataset.get(i))), examples };
}

/** Every example once, in file order, packed: for evaluation. */
export function evaluationBatches(dataset: Dataset, maxTokens: number): Generator<ExampleBatch> {
  return sequentialBatches(dataset, maxTokens, () => true);
}

/** The examples that `wanted` takes, in file order, packed. */
export function* sequentialBatches(
  dataset: Dataset,
  maxTokens: number,
  wanted: (example: number) => boolean,
): Generator<ExampleBatch> {
  let members: number[] = [];
  let size = 0;
  for (let i = 0; i < dataset.length; i++) {
    if (!wanted(i)) continue;
    const length = dataset.positions(i);
    if (members.length > 0 && size + length > maxTokens) {
      yield packExamples(dataset, members);
      members = [];
      size = 0;
    }
    members.push(i);
    size += length;
  }
  if (members.length > 0) yield packExamples(dataset, members);
}
