/** SwiGLU (arXiv:2002.05202): y = silu(gate) ⊙ up, silu(g) = g·σ(g). All [T, F]. */
import { type Tape, tracks } from '../autograd.ts';
import { Tensor } from '../tensor.ts';

/** Saves gate and up. */
export function swiglu(tape: Tape | null, gate: Tensor, up: Tensor): Tensor {
  const { native } = gate.device;
  const y = Tensor.empty(gate.device, gate.shape, gate.dtype);
  native.swigluForward(y.handle, gate.handle, up.handle);
  if (tracks(tape, gate, up)) {
    tape.record([y], [gate, up], ([dy]) => {
      // forward: y = gate·σ(gate) ⊙ up
      const dgate = Tensor.empty(gate.device, gate.shape, gate.dtype);
      const dup = Tensor.empty(up.device, up.shape, up.dtype);
      native.swigluBackward(dgate.handle, dup.handle, dy!.handle, gate.handle, up.handle);
      tape.give(gate, dgate);
      tape.give(up, dup);
    });
  }
  return y;
}
