/**
 * Supervised next-token loss over labelled tokens only: Σ cross-entropy ÷ labelled tokens of the whole optimizer step,
 * so packing, micro-batching and batch size do not change the objective. The head runs on labelled rows alone.
 */
import { Tape } from '../autograd.ts';
import { readFloatsLater, readIntegersLater } from '../deferred.ts';
import type { Model } from '../models/model.ts';
import {
  type DropoutKey,
  type PackedBatch,
  packedForward,
  packedHidden,
  packedInputs,
} from '../models/packed.ts';
import { linearCrossEntropy, type RowLosses } from '../ops/cross-entropy.ts';
import { scope, Tensor } from '../tensor.ts';
import { headLoss, headWeight, type LabelledRows, labelledRows } from './head.ts';
import { type LabelledInputs, RecordedBatches } from './recorded-batches.ts';

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
  /** Runs the micro-batches that it takes. */
  recorded?: RecordedBatches | null;
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
  const { labelledTotal, seed, step, microBatch, recompute = false, recorded = null } = options;
  const labels = labelledRows(batch);
  const { rows } = labels;
  if (model.trainableParameters().size === 0)
    throw new Error('the model has nothing to train: open it with trainable');
  if (!(labelledTotal >= rows.length && labelledTotal > 0)) {
    throw new Error(
      `labelledTotal ${labelledTotal} is less than this batch's ${rows.length} labelled tokens`,
    );
  }
  if (rows.length === 0) return () => ({ lossSum: 0, labelled: 0, correct: 0 });
  const scale = 1 / labelledTotal;
  return scope(() => {
    const losses = recorded?.takes(batch)
      ? recorded.run(batch, labels, scale)
      : addGradients(model, labelledInputs(model, batch, labels, scale), {
          dropout: { seed, step, microBatch },
          recompute,
        });
    return readSumsLater(losses, rows.length);
  });
}

/**
 * Micro-batches recorded for a training of `model` with a fixed `recompute`, up to `tokensMax` tokens (a padded size).
 * @throws Error with dropout, whose masks are not data; code LATHE_OUT_OF_MEMORY
 */
export function recordedGradients(
  model: Model,
  { recompute, ...options }: { recompute: boolean } & ConstructorParameters<typeof RecordedBatches>[2],
): RecordedBatches {
  if ((model.adapter?.config.lora_dropout ?? 0) > 0) throw new Error('dropout cannot be recorded');
  return new RecordedBatches(
    model,
    (inputs) => addGradients(model, inputs, { dropout: null, recompute }),
    options,
  );
}

/** Forward and backward of a micro-batch that is on the device: Σ rowScale·loss; adds to the parameters' gradients. */
function addGradients(
  model: Model,
  inputs: LabelledInputs,
  { dropout, recompute }: { dropout: DropoutKey | null; recompute: boolean },
): RowLosses {
  const tape = new Tape();
  try {
    const x = packedHidden(model, inputs, { tape, dropout, recompute });
    const losses = linearCrossEntropy(tape, x, headWeight(model), inputs.targets, 1, inputs.rowScale);
    tape.backward();
    return losses;
  } finally {
    tape.dispose();
  }
}

function labelledInputs(
  model: Model,
  batch: PackedBatch,
  { rows, targets }: LabelledRows,
  scale: number,
): LabelledInputs {
  const { device } = model;
  return {
    ...packedInputs(model, batch, rows),
    targets: Tensor.fromInt32(device, targets),
    rowScale: Tensor.fromFloat32(device, new Float32Array(rows.length).fill(scale), [rows.length]),
  };
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

const readSums = (rows: RowLosses): LossSums => readSumsLater(rows, rows.losses.dim(0))();

/** Sums of the first `count` rows. The copies are asked for now, before the tensors go. */
function readSumsLater({ losses, correct }: RowLosses, count: number): () => LossSums {
  const [later, hitsLater] = [readFloatsLater(losses), readIntegersLater(correct)];
  return () => {
    let lossSum = 0;
    for (const loss of later.read().subarray(0, count)) lossSum += loss;
    let hits = 0;
    for (const hit of hitsLater.read().subarray(0, count)) hits += hit;
    return { lossSum, labelled: count, correct: hits };
  };
}
