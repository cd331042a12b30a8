/**
 * The one decoder: embedding, blocks of attention and SwiGLU, residual stream. Training, evaluation, prefill and decode
 * all run this function; a Strategy supplies what differs (how a linear is computed, what attention reads).
 * It knows neither losses nor caches.
 */
import { recomputed, type Tape } from '../autograd.ts';
import type { AttentionShape } from '../ops/attention.ts';
import { add } from '../ops/elementwise.ts';
import { embedding, gatherRows } from '../ops/embedding.ts';
import { addRmsNorm, rmsNorm } from '../ops/norm.ts';
import { normRotary, type RotaryTable } from '../ops/rotary.ts';
import { swiglu } from '../ops/swiglu.ts';
import { type FloatDType, release, scope, type Tensor } from '../tensor.ts';
import type { ModelConfig } from './config.ts';
import type { Block, DecoderWeights, Linear } from './weights.ts';

export interface Strategy {
  /** y_i = linear_i(x) with whatever adapters apply, for one to three linears that read one x. x [T, in] → [T, out_i]. */
  linears(tape: Tape | null, x: Tensor, layers: readonly Linear[]): Tensor[];
  /** Causal attention of layer `layer`; q [T, Hq·D], k and v [T, Hkv·D] → [T, Hq·D]. */
  attend(tape: Tape | null, q: Tensor, k: Tensor, v: Tensor, layer: number, shape: AttentionShape): Tensor;
}

export interface DecoderInput {
  /** i32 [T] */
  ids: Tensor;
  /** i32 [T], each below the rotary table's rows. */
  positions: Tensor;
  rotary: RotaryTable;
  /** What every activation is stored as: each op's output takes the dtype of its input. */
  activationDtype: FloatDType;
  /**
   * i32 [N], the only rows whose result is wanted; absent = all. Every later row-wise layer of the last block then runs
   * on these rows alone: of a prompt that carries no label, only keys and values matter there.
   */
  rows?: Tensor;
}

/** Returns the residual stream after the last block, [T or N, C], before the final norm. */
export function decoderForward(
  config: ModelConfig,
  weights: DecoderWeights,
  input: DecoderInput,
  strategy: Strategy,
  options: { tape: Tape | null; recompute?: boolean },
): Tensor {
  const { tape, recompute = false } = options;
  const last = weights.blocks.length - 1;
  let x = embedding(tape, weights.embedding, input.ids, input.activationDtype);
  for (const block of weights.blocks) {
    const rows = block.index === last ? (input.rows ?? null) : null;
    const run = (blockTape: Tape | null, blockInput: Tensor) =>
      blockForward(config, block, blockInput, input, rows, strategy, blockTape);
    const out = recompute ? recomputed(tape, x, run) : scope(() => run(tape, x));
    release(x);
    x = out;
  }
  return x;
}

/** x → x + attention(norm(x)) → … + mlp(norm(…)), after the attention on `rows` only. */
function blockForward(
  config: ModelConfig,
  block: Block,
  x: Tensor,
  input: DecoderInput,
  rows: Tensor | null,
  strategy: Strategy,
  tape: Tape | null,
): Tensor {
  const { rmsNormEps: eps, headDim } = config;
  const { positions, rotary } = input;
  const shape = { headDim, scale: headDim ** -0.5, window: config.layerWindows[block.index] ?? 0 };

  const normed = rmsNorm(tape, x, block.inputNorm, eps);
  const [q0, k0, v] = strategy.linears(tape, normed, [block.q, block.k, block.v]);
  const q = normRotary(tape, q0!, block.qNorm, rotary, positions, headDim, eps);
  const k = normRotary(tape, k0!, block.kNorm, rotary, positions, headDim, eps);
  const attended = strategy.attend(tape, q, k, v!, block.index, shape);
  const [stream, read] = rows === null ? [x, attended] : [x, attended].map((t) => gatherRows(tape, t, rows));
  const [delta] = strategy.linears(tape, read!, [block.o]);
  const { y, z } = addRmsNorm(tape, stream!, delta!, block.postNorm, eps);

  const [gate, up] = strategy.linears(tape, y, [block.gate, block.up]);
  const [out] = strategy.linears(tape, swiglu(tape, gate!, up!), [block.down]);
  return add(tape, z, out!);
}
