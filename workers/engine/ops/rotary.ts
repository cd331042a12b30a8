/**
 * Rotary position embedding (arXiv:2104.09864, half-split convention) fused with the optional per-head RMSNorm of
 * Qwen3 ("qk-norm"): per head, n = x·rstd ⊙ w (or n = x), y = n ⊙ cos + rotate_half(n) ⊙ sin.
 * x, y [T, H·D]; w [D]; cos, sin f32 [P, D/2]; positions i32 [T].
 */
import { parameterGradient, type Tape, tracks } from '../autograd.ts';
import { Tensor } from '../tensor.ts';

export interface RotaryTable {
  cos: Tensor;
  sin: Tensor;
}

/** Saves x and rstd when there is a norm; nothing otherwise (the rotation is orthogonal). */
export function normRotary(
  tape: Tape | null,
  x: Tensor,
  norm: Tensor | null,
  table: RotaryTable,
  positions: Tensor,
  headDim: number,
  eps: number,
): Tensor {
  const { native } = x.device;
  const [cos, sin, pos] = [table.cos.handle, table.sin.handle, positions.handle];
  const y = Tensor.empty(x.device, x.shape, x.dtype);
  const rstd = norm === null ? null : Tensor.empty(x.device, [x.dim(0), x.dim(1) / headDim], 'f32');
  native.qkNormRopeForward(
    y.handle,
    rstd?.handle ?? null,
    x.handle,
    norm?.handle ?? null,
    cos,
    sin,
    pos,
    headDim,
    eps,
  );
  if (tracks(tape, x, norm)) {
    tape.record([y], rstd === null ? [] : [x, rstd], ([dy]) => {
      // forward: y = rotate(x·rstd ⊙ w) ; without a norm the kernel rotates dy back and never reads x
      const dx = Tensor.empty(x.device, x.shape, x.dtype);
      const dw = norm?.requiresGrad ? parameterGradient(norm).handle : null;
      const input = rstd === null ? dy!.handle : x.handle;
      const [w, r] = [norm?.handle ?? null, rstd?.handle ?? null];
      native.qkNormRopeBackward(dx.handle, dw, dy!.handle, input, w, r, cos, sin, pos, headDim);
      tape.give(x, dx);
    });
  }
  return y;
}
