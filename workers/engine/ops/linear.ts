/**
 * The linear layer y = x·Wᵀ (+ b), with an optional low-rank branch in the same op:
 *   h = dropout(x)·Aᵀ ;  y = x·Wᵀ (+ b) + s·h·Bᵀ        (LoRA, arXiv:2106.09685)
 * x [T, in], W [out, in], b [out], A [R, in], B [out, R], h [T, R]. A, B and h are f32, x and y f32 or bf16.
 */
import { parameterGradient, type Tape, tracks } from '../autograd.ts';
import { Tensor } from '../tensor.ts';
import { type DropoutMask, dropoutBackward, dropoutForward } from './elementwise.ts';

export interface LowRankBranch {
  a: Tensor;
  b: Tensor;
  /** s = alpha/r, or alpha/√r for rsLoRA. */
  scale: number;
  /** null outside training or when the adapter has no dropout. */
  dropout: DropoutMask | null;
}

/** Saves x (when A, B or W learns) and h. A frozen W gets no gradient. */
export function linear(
  tape: Tape | null,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null,
  branch: LowRankBranch | null,
): Tensor {
  const { native } = x.device;
  const y = Tensor.empty(x.device, [x.dim(0), weight.dim(0)], x.dtype);
  native.gemm(y.handle, x.handle, weight.handle, false, true, 1, 0);
  if (bias !== null) native.addBias(y.handle, bias.handle);
  const h = branch === null ? null : addLowRank(y, x, branch);
  if (!tracks(tape, x, weight, bias, branch?.a, branch?.b)) return y;

  const learnsFromX = weight.requiresGrad || branch?.a.requiresGrad === true;
  const saved = [...(learnsFromX ? [x] : []), ...(h === null ? [] : [h])];
  tape.record([y], saved, ([dy]) => {
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
    if (branch !== null) lowRankBackward(tape, dy!, x, h!, branch);
  });
  return y;
}

/** y += s·(dropout(x)·Aᵀ)·Bᵀ in place; returns h = dropout(x)·Aᵀ [T, R] in f32. */
export function addLowRank(y: Tensor, x: Tensor, { a, b, scale, dropout }: LowRankBranch): Tensor {
  const { native } = x.device;
  const dropped = dropout === null ? x : dropoutForward(x, dropout);
  const h = Tensor.empty(x.device, [x.dim(0), a.dim(0)], 'f32');
  native.gemm(h.handle, dropped.handle, a.handle, false, true, 1, 0);
  if (dropped !== x) dropped.dispose();
  native.gemm(y.handle, h.handle, b.handle, false, true, scale, 1);
  return h;
}

function lowRankBackward(tape: Tape, dy: Tensor, x: Tensor, h: Tensor, branch: LowRankBranch): void {
  const { native } = dy.device;
  const { a, b, scale, dropout } = branch;
  // forward: y += s·h·Bᵀ
  native.gemm(parameterGradient(b).handle, dy.handle, h.handle, true, false, scale, 1);
  const dh = Tensor.empty(dy.device, h.shape, 'f32');
  native.gemm(dh.handle, dy.handle, b.handle, false, false, scale, 0);
  // forward: h = dropout(x)·Aᵀ ; the mask is drawn again, not stored
  const dropped = dropout === null ? x : dropoutForward(x, dropout);
  native.gemm(parameterGradient(a).handle, dh.handle, dropped.handle, true, false, 1, 1);
  if (dropped !== x) dropped.dispose();
  if (!x.requiresGrad) return;
  if (dropout === null) {
    const { gradient, beta } = tape.target(x);
    native.gemm(gradient.handle, dh.handle, a.handle, false, false, 1, beta);
  } else {
    const ddropped = Tensor.empty(x.device, x.shape, x.dtype);
    native.gemm(ddropped.handle, dh.handle, a.handle, false, false, 1, 0);
    tape.give(x, dropoutBackward(ddropped, dropout));
  }
}

/** y = x·Wᵀ (+ b) from a weight packed by packWeight(); serving only, never recorded. `outFeatures` is W's row count. */
export function linearPacked(x: Tensor, packed: Tensor, outFeatures: number, bias: Tensor | null): Tensor {
  const { native } = x.device;
  const y = Tensor.empty(x.device, [x.dim(0), outFeatures], x.dtype);
  native.gemmPacked(y.handle, x.handle, packed.handle, 1, 0);
  if (bias !== null) native.addBias(y.handle, bias.handle);
  return y;
}
