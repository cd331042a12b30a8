/**
 * The decoder over a packed batch: sequences laid end to end, as in training and evaluation. Also the head that turns
 * chosen rows into logits. It knows neither losses nor the optimizer.
 */
import type { Tape } from '../autograd.ts';
import { packedAttention } from '../ops/attention.ts';
import { linear, loraLinears } from '../ops/linear.ts';
import { rmsNorm } from '../ops/norm.ts';
import type { RotaryTable } from '../ops/rotary.ts';
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

/** A batch on the device; [T] tokens of [S] sequences. */
export interface PackedInputs {
  ids: Tensor;
  positions: Tensor;
  cuSeqlens: Tensor;
  rotary: RotaryTable;
  /** i32 [N], the rows whose result is wanted. */
  rows: Tensor;
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
  return packedHidden(model, packedInputs(model, batch, rows), options);
}

/** Uploads a batch. @throws when the arrays' lengths disagree or a position is beyond the model's */
export function packedInputs(model: Model, batch: PackedBatch, rows: Int32Array): PackedInputs {
  const { ids, positions, cuSeqlens } = batch;
  if (ids.length === 0 || positions.length !== ids.length || cuSeqlens.at(-1) !== ids.length) {
    const sizes = `${ids.length} ids, ${positions.length} positions, cuSeqlens up to ${cuSeqlens.at(-1)}`;
    throw new Error(`a packed batch needs as many positions as ids and cuSeqlens that end there: ${sizes}`);
  }
  const { device } = model;
  return {
    ids: Tensor.fromInt32(device, ids),
    positions: Tensor.fromInt32(device, positions),
    cuSeqlens: Tensor.fromInt32(device, cuSeqlens),
    rotary: model.rope.covering(positionCount(positions)),
    rows: Tensor.fromInt32(device, rows),
  };
}

/** packedForward() of a batch that is on the device already. */
export function packedHidden(model: Model, inputs: PackedInputs, options: PackedOptions): Tensor {
  const strategy: Strategy = {
    linears: (tape, x, layers) => trainedLinears(model, tape, x, layers, options.dropout ?? null),
    attend: (tape, q, k, v, _layer, shape) => packedAttention(tape, q, k, v, inputs.cuSeqlens, shape),
  };
  const input = { ...inputs, activationDtype: model.activationDtype };
  const hidden = decoderForward(model.config, model.weights, input, strategy, options);
  return rmsNorm(options.tape, hidden, model.weights.finalNorm, model.config.rmsNormEps);
}

function trainedLinears(
  model: Model,
  tape: Tape | null,
  x: Tensor,
  layers: readonly Linear[],
  key: DropoutKey | null,
): Tensor[] {
  const a = model.adapter?.stackedA(layers) ?? null;
  if (a === null) return layers.map((layer) => linear(tape, x, plainWeight(layer), layer.bias));
  const p = key === null ? 0 : (model.adapter?.config.lora_dropout ?? 0);
  // PEFT draws a mask for every linear, so with dropout they do not share one h.
  if (p > 0 && layers.length > 1)
    return layers.flatMap((layer) => trainedLinears(model, tape, x, [layer], key));
  const branches = model.adapter!.group(layers);
  const adapted = layers.map((layer, i) => ({
    weight: plainWeight(layer),
    bias: layer.bias,
    branch: branches[i] ?? null,
  }));
  const stream = key === null ? 0 : dropoutStream(key.step, key.microBatch, layers[0]!.index);
  return loraLinears(tape, x, adapted, a, p > 0 ? { p, seed: key!.seed, stream } : null);
}

function plainWeight({ weight }: Linear): Tensor {
  if (weight === null) throw new Error('a model opened for serving has no packed-batch forward');
  return weight;
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
