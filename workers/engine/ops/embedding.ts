/** Row look-ups: the token embedding, and picking the rows that carry a label. */
import { parameterGradient, type Tape, tracks } from '../autograd.ts';
import { type FloatDType, Tensor } from '../tensor.ts';

/** out[t] = weight[ids[t]]. weight [V, C], ids i32 [T], out [T, C] of `dtype`. Saves nothing. */
export function embedding(tape: Tape | null, weight: Tensor, ids: Tensor, dtype: FloatDType): Tensor {
  const { native } = weight.device;
  const out = Tensor.empty(weight.device, [ids.dim(0), weight.dim(1)], dtype);
  native.embeddingForward(out.handle, weight.handle, ids.handle);
  if (tracks(tape, weight)) {
    tape.record([out], [], ([dout]) => {
      // forward: out[t] = weight[ids[t]], so row ids[t] collects dout[t]
      native.embeddingBackward(parameterGradient(weight).handle, dout!.handle, ids.handle);
    });
  }
  return out;
}

/** out[n] = x[rows[n]]. x [T, C], rows i32 [N] without repeats. Saves nothing. */
export function gatherRows(tape: Tape | null, x: Tensor, rows: Tensor): Tensor {
  const { native } = x.device;
  const out = Tensor.empty(x.device, [rows.dim(0), x.dim(1)], x.dtype);
  native.gatherRows(out.handle, x.handle, rows.handle);
  if (tracks(tape, x)) {
    tape.record([out], [], ([dout]) => {
      // forward: out[n] = x[rows[n]] ; rows that were not picked get zero
      const dx = Tensor.zeros(x.device, x.shape, x.dtype);
      native.scatterAddRows(dx.handle, dout!.handle, rows.handle);
      tape.give(x, dx);
    });
  }
  return out;
}
