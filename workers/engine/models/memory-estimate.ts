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

/** Rows of logits that the loss holds at a time on the CPU. */
const LOGIT_ROWS = 512;
/** On CUDA: so many logits, in whole tiles of rows; f32 with a gradient of the activations' type beside them. */
const CUDA_LOGITS = 2 ** 27;
const CUDA_ROW_STEP = 128;
/** cuBLASLt's workspace. */
const CUDA_WORKSPACE = 32 * 2 ** 20;

/**
 * @param dtype of the base's weights
 * @param activationDtype of what is kept for the backward
 * @param counts parameters of the model and of what is trained
 * @param tokens T of the largest micro-batch
 * @param kind of the device that trains
 */
export function estimateMemory(
  config: ModelConfig,
  dtype: FloatDType,
  activationDtype: FloatDType,
  counts: { total: number; trainable: number },
  isFull: boolean,
  tokens: number,
  kind: 'cpu' | 'cuda' = 'cpu',
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
  const tiles = Math.max(1, Math.floor(CUDA_LOGITS / vocabSize / CUDA_ROW_STEP));
  const head =
    kind === 'cpu'
      ? Math.min(tokens, LOGIT_ROWS) * vocabSize * 4
      : Math.min(tokens, tiles * CUDA_ROW_STEP) * vocabSize * (4 + (activationSize === 2 ? 2 : 0)) +
        CUDA_WORKSPACE;
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
