/**
 * Supervised next-token loss over labelled tokens only: Σ cross-entropy ÷ labelled tokens of the whole optimizer step,
 * so packing, micro-batching and batch size do not change the objective. The head runs on labelled rows alone.
 */
import { Tape } from '../autograd.ts';
import { readFloatsLater, readIntegersLater } from '../deferred.ts';
import type { Model } from '../models/model.ts';
import { type PackedBatch, packedForward } from '../models/packed.ts';
import type { RowLosses } from '../ops/cross-entropy.ts';
import { scope } from '../tensor.ts';
import { headLoss, labelledRows } from './head.ts';

export interface LossSums {
  /** Σ of the labelled tokens' losses (natural log). */
  lossSum: number;
  labelled: number;
  /** Labelled tokens whose most likely next token is the target. */
  correct: number;
}

export interface AccumulateOptions {
  /** Labelled tokens of all micro-batches of this optimizer step. */
  labelledTotal: number;
  /** With `step` and `microBatch`, decides the dropout masks. */
  seed: number;
  step: number;
  microBatch: number;
  /** Keep only block inputs and compute the rest again in the backward: less memory, about 1.4 times the time. */
  recompute?: boolean;
}

/**
 * Forward and backward of Σ loss / labelledTotal; adds to `.grad` of the model's trainable parameters.
 * A batch without labels adds nothing.
 * @throws when nothing is trainable, or when a target or id lies outside the vocabulary
 */
export function accumulateGradients(model: Model, batch: PackedBatch, options: AccumulateOptions): LossSums {
  return accumulateGradientsLater(model, batch, options)();
}

/** The same without waiting for the sums: call the result for them, any number of times. */
export function accumulateGradientsLater(
  model: Model,
  batch: PackedBatch,
  options: AccumulateOptions,
): () => LossSums {
  const { labelledTotal, seed, step, microBatch, recompute = false } = options;
  const { rows, targets } = labelledRows(batch);
  if (model.trainableParameters().size === 0)
    throw new Error('the model has nothing to train: open it with trainable');
  if (!(labelledTotal >= rows.length && labelledTotal > 0)) {
    throw new Error(
      `labelledTotal ${labelledTotal} is less than this batch's ${rows.length} labelled tokens`,
    );
  }
  if (rows.length === 0) return () => ({ lossSum: 0, labelled: 0, correct: 0 });
  return scope(() => {
    const tape = new Tape();
    try {
      const dropout = { seed, step, microBatch };
      const x = packedForward(model, batch, rows, { tape, dropout, recompute });
      const sums = headLoss(model, tape, x, targets, 1 / labelledTotal);
      const read = readSumsLater(sums);
      tape.backward();
      return read;
    } finally {
      tape.dispose();
    }
  });
}

/** Loss and token accuracy without dropout and without gradients. */
export function evaluate(model: Model, batch: PackedBatch): LossSums {
  const { rows, targets } = labelledRows(batch);
  if (rows.length === 0) return { lossSum: 0, labelled: 0, correct: 0 };
  return scope(() => {
    const x = packedForward(model, batch, rows, { tape: null });
    return readSums(headLoss(model, null, x, targets, 0));
  });
}

const readSums = (rows: RowLosses): LossSums => readSumsLater(rows)();

/** The copies are asked for now, before the tensors go. */
function readSumsLater({ losses, correct }: RowLosses): () => LossSums {
  const [later, hitsLater] = [readFloatsLater(losses), readIntegersLater(correct)];
  return () => {
    let lossSum = 0;
    for (const loss of later.read()) lossSum += loss;
    let hits = 0;
    for (const hit of hitsLater.read()) hits += hit;
    return { lossSum, labelled: later.read().length, correct: hits };
  };
}
