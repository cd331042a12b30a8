/**
 * What losses over labelled tokens share: which rows of a batch carry a label, and the output head's cross-entropy on
 * them. Knows neither objectives nor the optimizer.
 */
import type { Tape } from '../autograd.ts';
import type { Model } from '../models/model.ts';
import type { PackedBatch } from '../models/packed.ts';
import { linearCrossEntropy, type RowLosses } from '../ops/cross-entropy.ts';
import { Tensor } from '../tensor.ts';

/** The target of tokens that carry no label. */
const IGNORED = -100;

/** The tokens of a batch that predict something, in order, and what they predict. */
export interface LabelledRows {
  rows: Int32Array;
  targets: Int32Array;
}

export function labelledRows({ targets }: PackedBatch): LabelledRows {
  let count = 0;
  for (const target of targets) if (target !== IGNORED) count++;
  const rows = new Int32Array(count);
  const labels = new Int32Array(count);
  let next = 0;
  for (let token = 0; token < targets.length; token++) {
    if (targets[token] === IGNORED) continue;
    rows[next] = token;
    labels[next++] = targets[token]!;
  }
  return { rows, targets: labels };
}

/**
 * Cross-entropy of rows x [N, C] with their targets; with a tape also the gradient of gradScale·Σ rowScale_n·loss_n.
 * @throws when the model was opened without its head
 */
export function headLoss(
  model: Model,
  tape: Tape | null,
  x: Tensor,
  targets: Int32Array,
  gradScale: number,
  rowScale: Float32Array | null = null,
): RowLosses {
  const labels = Tensor.fromInt32(model.device, targets);
  const scale = rowScale && Tensor.fromFloat32(model.device, rowScale, [rowScale.length]);
  return linearCrossEntropy(tape, x, headWeight(model), labels, gradScale, scale);
}

/** The output head [V, C]. @throws when the model was opened without it */
export function headWeight({ weights }: Model): Tensor {
  const { weight } = weights.head;
  if (weight === null) throw new Error('a model opened for serving cannot compute losses');
  return weight;
}
