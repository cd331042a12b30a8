/** What a training needs, from shapes alone: for the log, for the choice to recompute, and for out-of-memory errors. */

import { elementCount, type FloatDType } from '../tensor.ts';
import type { ModelConfig } from './config.ts';
import { parameterSpecs } from './weights.ts';

export interface MemoryEstimate {
  /** Frozen or trained weights as they lie on the device. */
  weightBytes: number;
  /** f32 gradients and both moments of what is trained; f32 masters of bf16 weights that are trained. */
  trainableBytes: number;
  /** Activations of one micro-batch kept for the backward, and the most that lies beside them at a time. */
  activationBytes: number;
  /** The same when blocks are computed again in the backward. */
  recomputedActivationBytes: number;
}

type DeviceKind = 'cpu' | 'cuda';

/** Logits that the loss holds at a time on the CPU, of so many rows at least. */
const CPU_LOGITS = 2 ** 22;
const CPU_LOGIT_ROWS = 256;
/** The CPU's pool maps larger blocks in whole pages of this size. */
const CPU_PAGE = 2 ** 21;
/** On CUDA: so many logits, in whole tiles of rows; f32 with a gradient of the activations' type beside them. */
const CUDA_LOGITS = 2 ** 27;
const CUDA_ROW_STEP = 128;
/** cuBLASLt's workspace. */
const CUDA_WORKSPACE = 32 * 2 ** 20;
/** Linears of a block, each with a low-rank branch at most. */
const LINEARS = 7;

/**
 * Every row is taken to carry a label: chat data, where fewer do, needs a little less of the last block.
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
  kind: DeviceKind = 'cpu',
): MemoryEstimate {
  const room = kind === 'cpu' ? cpuBlock : cudaBlock;
  const parameters = (size: number) =>
    parameterSpecs(config).reduce((sum, { shape }) => sum + room(elementCount(shape) * size), 0);
  const copies = 3 + (isFull && dtype === 'bf16' ? 1 : 0) + (isFull ? 0 : 1);
  const { layers, hiddenSize: C, intermediateSize: F, heads, headDim: D } = config;
  const size = bytesOf(activationDtype);
  const rows = (width: number) => room(tokens * width * size);
  const rank = isFull ? 0 : rankOf(config, counts.trainable);
  const block = blockBytes(config, tokens, size, rank, room);
  const head = headBytes(config.vocabSize, tokens, size, kind);
  // Beside what the blocks keep lies the last attention's output, gathered for the labelled rows. The head stands beside
  // its input before and after the norm and that one's gradient. Later the backward of the last SwiGLU has three
  // gradients [T, F] where gate, up and product were kept, of which the product is gone by then, and the head's input.
  const peak = (kept: number, beside: number) =>
    kept + rows(heads * D) + Math.max(head + 3 * rows(C), 2 * rows(F) + rows(C) + beside);
  const workspace = kind === 'cuda' ? CUDA_WORKSPACE : 0;
  // Nothing is learned from the first block's input where the embedding is frozen.
  const first = isFull ? 0 : rows(C);
  return {
    weightBytes: parameters(bytesOf(dtype)),
    trainableBytes: isFull ? copies * parameters(4) : copies * counts.trainable * 4,
    activationBytes: peak(layers * block - first, 0) + workspace,
    // A block that is computed again has its output and that one's gradient beside it; its input is kept already.
    recomputedActivationBytes: peak(layers * rows(C), block + rows(C)) + workspace,
  };
}

/** Sum of the parts for the chosen way. */
export function estimatedBytes(estimate: MemoryEstimate, recompute: boolean): number {
  const activations = recompute ? estimate.recomputedActivationBytes : estimate.activationBytes;
  return estimate.weightBytes + estimate.trainableBytes + activations;
}

const bytesOf = (type: FloatDType) => (type === 'bf16' ? 2 : 4);

/** What one block keeps, tensor by tensor: see the ops' "Saves" in workers/engine/ops. */
function blockBytes(
  config: ModelConfig,
  tokens: number,
  size: number,
  rank: number,
  room: (bytes: number) => number,
): number {
  const { hiddenSize: C, intermediateSize: F, heads, kvHeads, headDim: D, qkNorm } = config;
  // The input, both norms' outputs and the residual between; q, k, v and the attention's output; gate, up, their
  // product; and what a norm of q and k reads.
  const wide = [C, C, C, C, heads * D, kvHeads * D, kvHeads * D, heads * D, F, F, F];
  const normed = qkNorm ? [heads * D, kvHeads * D] : [];
  // f32: the norms' statistics, the attention's, and h of every branch.
  const narrow = [1, 1, heads, ...(qkNorm ? [heads, kvHeads] : []), ...(rank > 0 ? [LINEARS * rank] : [])];
  const sum = (widths: readonly number[], bytes: number) =>
    widths.reduce((total, width) => total + room(tokens * width * bytes), 0);
  return sum([...wide, ...normed], size) + sum(narrow, 4);
}

function headBytes(vocabSize: number, tokens: number, size: number, kind: DeviceKind): number {
  if (kind === 'cpu') {
    const rows = Math.max(CPU_LOGIT_ROWS, Math.floor(CPU_LOGITS / vocabSize));
    return Math.min(tokens, rows) * vocabSize * 4;
  }
  const tiles = Math.max(1, Math.floor(CUDA_LOGITS / vocabSize / CUDA_ROW_STEP));
  return Math.min(tokens, tiles * CUDA_ROW_STEP) * vocabSize * (4 + (size === 2 ? 2 : 0));
}

/** The rank of an adapter with so many parameters if it adapts every linear; h is too small for more precision. */
function rankOf(config: ModelConfig, trainable: number): number {
  const { hiddenSize: C, intermediateSize: F, heads, kvHeads, headDim: D, layers } = config;
  const sides = 2 * (C + heads * D) + 2 * (C + kvHeads * D) + 3 * (C + F);
  return trainable / (sides * layers);
}

/** The block that the CPU's pool takes for so many bytes: see native/core/allocator.cc. */
function cpuBlock(bytes: number): number {
  let step = 64;
  while (step * 16 <= bytes) step *= 2;
  const size = Math.ceil(Math.max(bytes, 64) / step) * step;
  return size < CPU_PAGE ? size : Math.ceil(size / CPU_PAGE) * CPU_PAGE;
}

/** The same on CUDA: see native/cuda/memory.cc. */
function cudaBlock(bytes: number): number {
  return Math.ceil(Math.max(bytes, 1) / 256) * 256;
}
