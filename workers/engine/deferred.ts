/**
 * Reading a tensor without waiting for the device: on one that works ahead the copy arrives while later work runs, on the
 * CPU it is there at once. Knows no op.
 */
import type { Tensor } from './tensor.ts';

/** Values on their way from the device. read() waits where they have not arrived; it may be called again. */
export interface Deferred<T> {
  read(): T;
}

/** The elements as they are after the work asked for so far; the tensor may be disposed or overwritten at once. */
export function readFloatsLater(tensor: Tensor): Deferred<Float32Array> {
  return deferred(tensor, 'f32', () => new Float32Array(tensor.size));
}

export function readIntegersLater(tensor: Tensor): Deferred<Int32Array> {
  return deferred(tensor, 'i32', () => new Int32Array(tensor.size));
}

/** The raw bytes. */
export function readBytesLater(tensor: Tensor): Deferred<Uint8Array<ArrayBuffer>> {
  return deferred(tensor, null, () => new Uint8Array(tensor.bytes));
}

function deferred<T extends ArrayBufferView>(
  tensor: Tensor,
  dtype: string | null,
  create: () => T,
): Deferred<T> {
  if (dtype !== null && tensor.dtype !== dtype) throw new Error(`a ${tensor.dtype} tensor is not ${dtype}`);
  const { native } = tensor.device;
  const pending = native.readLater(tensor.handle);
  const values = create();
  let arrived = false;
  return {
    read() {
      if (!arrived) native.deferredTake(pending, values);
      arrived = true;
      return values;
    },
  };
}
