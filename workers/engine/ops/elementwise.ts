/** Residual addition and dropout. */
import { type Tape, tracks } from '../autograd.ts';
import { Tensor } from '../tensor.ts';

/** out = a + b, same shape and dtype. Saves nothing. */
export function add(tape: Tape | null, a: Tensor, b: Tensor): Tensor {
  const out = Tensor.empty(a.device, a.shape, a.dtype);
  a.device.native.add(out.handle, a.handle, b.handle);
  if (tracks(tape, a, b)) {
    tape.record([out], [], ([dout]) => {
      // forward: out = a + b, so both inputs receive dout itself (shared, not copied)
      tape.give(a, dout!);
      tape.give(b, dout!);
    });
  }
  return out;
}

/**
 * Which elements a dropout keeps: a pure function of (seed, stream, element index), so nothing is saved and the mask of
 * any step can be made again. `p` is the probability of zeroing; kept elements are scaled by 1/(1−p).
 */
export interface DropoutMask {
  p: number;
  seed: number;
  stream: number;
}

/** y = x ⊙ mask/(1−p), not recorded on a tape: the ops that use dropout differentiate it themselves. */
export function dropoutForward(x: Tensor, mask: DropoutMask): Tensor {
  const y = Tensor.empty(x.device, x.shape, x.dtype);
  x.device.native.dropoutForward(y.handle, x.handle, mask.p, mask.seed, mask.stream);
  return y;
}

/** forward: y = x ⊙ mask/(1−p), so dx = dy ⊙ mask/(1−p). */
export function dropoutBackward(dy: Tensor, mask: DropoutMask): Tensor {
  const dx = Tensor.empty(dy.device, dy.shape, dy.dtype);
  dy.device.native.dropoutBackward(dx.handle, dy.handle, mask.p, mask.seed, mask.stream);
  return dx;
}
