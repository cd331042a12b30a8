/**
 * The output head and cross-entropy in one op: loss_n = logsumexp(x_n·Wᵀ) − (x_n·Wᵀ)[target_n]. Logits exist only for
 * one chunk of rows at a time. x [N, C], W [V, C], targets i32 [N] in [0, V).
 */
import { parameterGradient, type Tape, tracks } from '../autograd.ts';
import { Tensor } from '../tensor.ts';

export interface RowLosses {
  /** f32 [N], natural log. */
  losses: Tensor;
  /** i32 [N]: 1 where the largest logit is the target's. */
  correct: Tensor;
}

/**
 * With a tape, also computes the gradient of gradScale·Σ rowScale_n·loss_n and seeds it: dx is given to x, dW added to
 * W's gradient if it learns. The logits' gradient (softmax − onehot)·gradScale·rowScale is made chunk by chunk in this
 * same pass. `rowScale` f32 [N] weighs rows in the gradient alone, never in `losses`; null: all 1.
 */
export function linearCrossEntropy(
  tape: Tape | null,
  x: Tensor,
  weight: Tensor,
  targets: Tensor,
  gradScale: number,
  rowScale: Tensor | null = null,
): RowLosses {
  const { native } = x.device;
  const rows = x.dim(0);
  const losses = Tensor.empty(x.device, [rows], 'f32');
  const correct = Tensor.empty(x.device, [rows], 'i32');
  const dx = tracks(tape, x) ? Tensor.empty(x.device, x.shape, x.dtype) : null;
  const dw = tracks(tape, weight) ? parameterGradient(weight) : null;
  native.linearCrossEntropy(
    losses.handle,
    correct.handle,
    dx?.handle ?? null,
    dw?.handle ?? null,
    x.handle,
    weight.handle,
    targets.handle,
    rowScale?.handle ?? null,
    gradScale,
  );
  if (dx !== null) tape?.give(x, dx);
  return { losses, correct };
}
