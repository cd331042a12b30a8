/**
 * Linear layers y = x·Wᵀ (+ b): alone, or up to three that read one x, each with a low-rank branch in the same op:
 *   h = dropout(x)·Aᵀ ;  y = x·Wᵀ (+ b) + s·h·Bᵀ        (LoRA, arXiv:2106.09685)
 * x [T, in], W [out, in], b [out], A [R, in], B [out, R], h [T, R]. A, B and h are f32, x and y f32 or bf16.
 */

import { parameterGradient, type Tape, tracks } from '../autograd.ts';
import type { Handle } from '../device.ts';
import { type FloatDType, Tensor } from '../tensor.ts';
import { type DropoutMask, dropoutBackward, dropoutForward } from './elementwise.ts';

export interface LowRankBranch {
  a: Tensor;
  b: Tensor;
  /** s = alpha/r, or alpha/√r for rsLoRA. */
  scale: number;
}

/** A frozen layer of a group; `branch` null: not adapted. */
export interface AdaptedLinear {
  weight: Tensor;
  bias: Tensor | null;
  branch: LowRankBranch | null;
}

/** Saves x when W learns. A frozen W gets no gradient. */
export function linear(tape: Tape | null, x: Tensor, weight: Tensor, bias: Tensor | null): Tensor {
  const { native } = x.device;
  const y = Tensor.empty(x.device, [x.dim(0), weight.dim(0)], x.dtype);
  native.gemm(y.handle, x.handle, weight.handle, false, true, 1, 0);
  if (bias !== null) native.addBias(y.handle, bias.handle);
  if (!tracks(tape, x, weight, bias)) return y;

  tape.record([y], weight.requiresGrad ? [x] : [], ([dy]) => {
    if (weight.requiresGrad) {
      // forward: y = x·Wᵀ
      native.gemm(parameterGradient(weight).handle, dy!.handle, x.handle, true, false, 1, 1);
    }
    // forward: y += b on every row
    if (bias?.requiresGrad) native.biasBackward(parameterGradient(bias).handle, dy!.handle);
    if (x.requiresGrad) {
      // forward: y = x·Wᵀ
      const { gradient, beta } = tape.target(x);
      native.gemm(gradient.handle, dy!.handle, weight.handle, false, false, 1, beta);
    }
  });
  return y;
}

/**
 * y_i = x·W_iᵀ (+ b_i) + s_i·h_i·B_iᵀ for one to three frozen layers, at least one of them with a branch. `a` [R, in]
 * holds the A of all branches one below the other, in the layers' order. Dropout (null: none) draws one mask for the
 * call. Saves x and h [T, R]; the mask is drawn again, not stored.
 */
export function loraLinears(
  tape: Tape | null,
  x: Tensor,
  layers: readonly AdaptedLinear[],
  a: Tensor,
  dropout: DropoutMask | null,
): Tensor[] {
  const { device } = x;
  const ys = layers.map(({ weight }) => Tensor.empty(device, [x.dim(0), weight.dim(0)], x.dtype));
  const h = Tensor.empty(device, [x.dim(0), a.dim(0)], 'f32');
  const dropped = dropout === null ? null : dropoutForward(x, dropout);
  const weights = ofEach(layers, ({ weight }) => weight);
  const bs = ofEach(layers, ({ branch }) => branch?.b);
  const scales = [0, 1, 2].map((i) => layers[i]?.branch?.scale ?? 0) as [number, number, number];
  const [y0, y1, y2] = ofEach(ys, (y) => y);
  device.native.loraLinearForward(
    ...([y0!, y1, y2, h.handle, x.handle, dropped?.handle ?? null] as const),
    ...([weights[0]!, weights[1], weights[2]] as const),
    ...ofEach(layers, ({ bias }) => bias),
    a.handle,
    ...bs,
    ...scales,
  );
  dropped?.dispose();
  if (!tracks(tape, x, a)) return ys;

  tape.record(ys, [x, h], (arrived) => {
    const dys = ys.map((y, i) => arrived[i] ?? Tensor.zeros(device, y.shape, x.dtype as FloatDType));
    const again = dropout === null ? null : dropoutForward(x, dropout);
    const wanted = x.requiresGrad ? tape.target(x) : null;
    const ddropped = wanted !== null && again !== null ? Tensor.empty(device, x.shape, x.dtype) : null;
    const [dy0, dy1, dy2] = ofEach(dys, (dy) => dy);
    // The op adds to the gradient of the stacked A; those of its parts are rows of it and begin to exist here.
    for (const { branch } of layers) if (branch !== null) parameterGradient(branch.a);
    // forward: y_i = x·W_iᵀ + s_i·h_i·B_iᵀ with h = dropout(x)·Aᵀ
    device.native.loraLinearBackward(
      ...([wanted?.gradient.handle ?? null, ddropped?.handle ?? null, parameterGradient(a).handle] as const),
      ...ofEach(layers, ({ branch }) => branch && parameterGradient(branch.b)),
      ...([dy0!, dy1, dy2, x.handle, again?.handle ?? null, h.handle] as const),
      ...([weights[0]!, weights[1], weights[2]] as const),
      a.handle,
      ...bs,
      ...scales,
      wanted?.beta ?? 0,
    );
    if (ddropped !== null) tape.give(x, dropoutBackward(ddropped, dropout!));
  });
  return ys;
}

/** A tensor of each layer as the native op takes them: three handles, null where there is none. */
function ofEach<T>(
  layers: readonly T[],
  pick: (layer: T) => Tensor | null | undefined,
): [Handle | null, Handle | null, Handle | null] {
  const at = (i: number) => (i < layers.length ? (pick(layers[i]!)?.handle ?? null) : null);
  return [at(0), at(1), at(2)];
}
