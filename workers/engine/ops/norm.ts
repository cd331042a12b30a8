/**
 * RMSNorm (arXiv:1910.07467): y = x/√(mean(x²) + eps) ⊙ w over the last dimension, statistics in f32; alone and fused
 * with the residual addition before it. x [T, C], w [C], rstd f32 [T].
 */
import { parameterGradient, type Tape, tracks } from '../autograd.ts';
import { Tensor } from '../tensor.ts';

/** Saves x and rstd. */
export function rmsNorm(tape: Tape | null, x: Tensor, weight: Tensor, eps: number): Tensor {
  const y = Tensor.empty(x.device, x.shape, x.dtype);
  const rstd = Tensor.empty(x.device, [x.dim(0)], 'f32');
  x.device.native.rmsNormForward(y.handle, rstd.handle, x.handle, weight.handle, eps);
  if (tracks(tape, x, weight)) {
    tape.record([y], [x, rstd], ([dy]) => {
      // forward: y = x·rstd ⊙ w ; what has already arrived at x is added in the same pass
      const dx = normBackward(dy!, x, weight, rstd, tape.arrived(x));
      if (x.requiresGrad) tape.replace(x, dx);
    });
  }
  return y;
}

/** z = x + delta (the new residual stream), y = rmsnorm(z) ⊙ w. Saves z and rstd. */
export function addRmsNorm(
  tape: Tape | null,
  x: Tensor,
  delta: Tensor,
  weight: Tensor,
  eps: number,
): { y: Tensor; z: Tensor } {
  const y = Tensor.empty(x.device, x.shape, x.dtype);
  const z = Tensor.empty(x.device, x.shape, x.dtype);
  const rstd = Tensor.empty(x.device, [x.dim(0)], 'f32');
  x.device.native.addRmsNormForward(
    y.handle,
    z.handle,
    rstd.handle,
    x.handle,
    delta.handle,
    weight.handle,
    eps,
  );
  if (tracks(tape, x, delta, weight)) {
    tape.record([y, z], [z, rstd], ([dy, dz]) => {
      // forward: y = z·rstd ⊙ w, and z flows on: both gradients arrive at z in one pass
      const dsum = dy ? normBackward(dy, z, weight, rstd, dz ?? null) : dz!;
      // forward: z = x + delta
      tape.give(x, dsum);
      tape.give(delta, dsum);
    });
  }
  return { y, z };
}

function normBackward(dy: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, dresidual: Tensor | null): Tensor {
  const dx = Tensor.empty(x.device, x.shape, x.dtype);
  const dw = weight.requiresGrad ? parameterGradient(weight).handle : null;
  x.device.native.rmsNormBackward(
    dx.handle,
    dw,
    dy.handle,
    x.handle,
    weight.handle,
    rstd.handle,
    dresidual?.handle ?? null,
  );
  return dx;
}
