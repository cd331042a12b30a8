/**
 * The decoder over a packed batch: sequences laid end to end, as in training and evaluation. Also the head that turns
 * chosen rows into logits. It knows neither losses nor the optimizer.
 */
import type { Tape } from '../autograd.ts';
import { packedAttention } from '../ops/attention.ts';
import { type LowRankBranch, linear } from '../ops/linear.ts';
import { rmsNorm } from '../ops/norm.ts';
import { dropoutStream } from '../rng.ts';
import { scope, Tensor } from '../tensor.ts';
import { decoderForward, type Strategy } from './decoder.ts';
import type { Model } from './model.ts';
import { positionCount } from './rope-table.ts';
import type { Linear } from './weights.ts';

export interface PackedBatch {
  /** Token ids of all sequences end to end, [T]. */
  ids: Int32Array;
  /** Position of each token within its sequence, [T]. */
  positions: Int32Array;
  /** Bounds of the sequences: 0, …, T; [S+1]. */
  cuSeqlens: Int32Array;
  /** The id that should follow each token where that is learned, −100 elsewhere; [T]. */
  targets: Int32Array;
}

/** Which dropout masks a training forward draws; absent outside training. */
export interface DropoutKey {
  seed: number;
  step: number;
  microBatch: number;
}

export interface PackedOptions {
  tape: Tape | null;
  dropout?: DropoutKey | null;
  recompute?: boolean;
}

/**
 * What the output head reads at the chosen rows: the residual stream after the last block and the final norm, [N, C].
 * @throws when the arrays' lengths disagree, or an id, position or row is out of range
 */
export function packedForward(
  model: Model,
  batch: PackedBatch,
  rows: Int32Array,
  options: PackedOptions,
): Tensor {
  const { ids, positions, cuSeqlens } = batch;
  if (ids.length === 0 || positions.length !== ids.length || cuSeqlens.at(-1) !== ids.length) {
    const sizes = `${ids.length} ids, ${positions.length} positions, cuSeqlens up to ${cuSeqlens.at(-1)}`;
    throw new Error(`a packed batch needs as many positions as ids and cuSeqlens that end there: ${sizes}`);
  }
  const { device } = model;
  const bounds = Tensor.fromInt32(device, cuSeqlens);
  const strategy: Strategy = {
    linear: (tape, x, layer) => {
      if (layer.weight === null) throw new Error('a model opened for serving has no packed-batch forward');
      return linear(tape, x, layer.weight, layer.bias, branchOf(model, layer, options.dropout ?? null));
    },
    attend: (tape, q, k, v, _layer, shape) => packedAttention(tape, q, k, v, bounds, shape),
  };
  const input = {
    ids: Tensor.fromInt32(device, ids),
    positions: Tensor.fromInt32(device, positions),
    rotary: model.rope.covering(positionCount(positions)),
    activationDtype: model.activationDtype,
    rows: Tensor.fromInt32(device, rows),
  };
  const hidden = decoderForward(model.config, model.weights, input, strategy, options);
  return rmsNorm(options.tape, hidden, model.weights.finalNorm, model.config.rmsNormEps);
}

function branchOf(model: Model, layer: Linear, key: DropoutKey | null): LowRankBranch | null {
  const branch = model.adapter?.branch(layer.index) ?? null;
  if (branch === null) return null;
  const p = model.adapter?.config.lora_dropout ?? 0;
  if (key === null || p === 0) return branch;
  const stream = dropoutStream(key.step, key.microBatch, layer.index);
  return { ...branch, dropout: { p, seed: key.seed, stream } };
}

/** Logits of the given rows, row-major [rows.length, V] in f32. */
export function packedLogits(model: Model, batch: PackedBatch, rows: Int32Array): Float32Array {
  return scope(() => {
    const { head } = model.weights;
    if (head.weight === null) throw new Error('a model opened for serving has no packed-batch forward');
    const x = packedForward(model, batch, rows, { tape: null });
    const logits = Tensor.empty(model.device, [rows.length, model.config.vocabSize], 'f32');
    model.device.native.gemm(logits.handle, x.handle, head.weight.handle, false, true, 1, 0);
    return logits.toFloat32();
  });
}
