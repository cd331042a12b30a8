/** What a training needs, from shapes alone: for the log, for the choice to recompute, and for out-of-memory errors. */

import type { FloatDType } from '../tensor.ts';
import type { ModelConfig } from './config.ts';

export interface MemoryEstimate {
  /** Frozen or trained weights as they lie on the device. */
  weightBytes: number;
  /** f32 gradients and both moments of what is trained; f32 masters of bf16 weights that are trained. */
  trainableBytes: number;
  /** Activations of one micro-batch kept for the backward. */
  activationBytes: number;
  /** The same when blocks are computed again in the backward. */
  recomputedActivationBytes: number;
}

/** Rows of logits that the loss holds at a time. */
const LOGIT_ROWS = 512;

/**
 * @param dtype of the base's weights
 * @param activationDtype of what is kept for the backward
 * @param counts parameters of the model and of what is trained
 * @param tokens T of the largest micro-batch
 */
export function estimateMemory(
  config: ModelConfig,
  dtype: FloatDType,
  activationDtype: FloatDType,
  counts: { total: number; trainable: number },
  isFull: boolean,
  tokens: number,
): MemoryEstimate {
  const { hiddenSize: C, intermediateSize: F, heads, kvHeads, headDim: D, layers, vocabSize } = config;
  const [weightSize, activationSize] = [dtype, activationDtype].map((type) => (type === 'bf16' ? 2 : 4)) as [
    number,
    number,
  ];
  const base = isFull ? counts.total : counts.total - counts.trainable;
  const copies = 3 + (isFull && dtype === 'bf16' ? 1 : 0) + (isFull ? 0 : 1);
  // One block saves: its input, both norms' outputs and the residual between (4C); q, k, v before and after rotation and
  // the attention's output; gate, up and their product (3F).
  const perToken = 4 * C + (2 * (heads + 2 * kvHeads) + heads) * D + 3 * F;
  const head = Math.min(tokens, LOGIT_ROWS) * vocabSize * 4;
  return {
    weightBytes: base * weightSize,
    trainableBytes: counts.trainable * 4 * copies,
    activationBytes: tokens * perToken * layers * activationSize + head,
    recomputedActivationBytes: tokens * (C * layers + perToken) * activationSize + head,
  };
}

/** Sum of the parts for the chosen way. */
export function estimatedBytes(estimate: MemoryEstimate, recompute: boolean): number {
  const activations = recompute ? estimate.recomputedActivationBytes : estimate.activationBytes;
  return estimate.weightBytes + estimate.trainableBytes + activations;
}
