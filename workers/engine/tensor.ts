/**
 * Tensor: dtype, shape and a native handle with an explicit lifetime. No maths lives here.
 *
 * Sizes used throughout the engine: T tokens, C channels (hidden size), H heads, D head size, V vocabulary,
 * F feed-forward size, S sequences, R adapter rank. Matrices are row-major; a linear weight is [out, in].
 *
 * Every tensor has exactly one owner: the innermost scope it was created in, a tape that saved it, or whoever called
 * keep(). The owner disposes it. The garbage collector is only a safety net (the native handle has a finalizer).
 */
import type { Device, Handle } from './device.ts';

export type DType = 'f32' | 'bf16' | 'i32' | 'u8';
export type FloatDType = 'f32' | 'bf16';
export type Shape = readonly number[];

export const BYTES_PER_ELEMENT: Readonly<Record<DType, number>> = { f32: 4, bf16: 2, i32: 4, u8: 1 };

/** Product of the dimensions. */
export function elementCount(shape: Shape): number {
  let count = 1;
  for (const size of shape) count *= size;
  return count;
}

export class Tensor {
  readonly device: Device;
  readonly dtype: DType;
  readonly shape: Shape;
  /** Set on parameters that learn and on values computed from them. */
  requiresGrad = false;
  /** f32 sum of gradients of a trainable parameter; null until the first backward. */
  grad: Tensor | null = null;
  /** Set on a parameter that is rows of another tensor from `start` on: its gradient is the same rows of the other's. */
  rowsOf: { whole: Tensor; start: number } | null = null;
  /** The scope that will dispose this tensor, if one owns it. Managed by scope(), keep() and the tape. */
  owner: Set<Tensor> | null = null;
  #handle: Handle | null;

  constructor(device: Device, handle: Handle, shape: Shape, dtype: DType) {
    this.device = device;
    this.dtype = dtype;
    this.shape = shape;
    this.#handle = handle;
    if (innermost !== null) {
      this.owner = innermost;
      innermost.add(this);
    }
  }

  /** Uninitialised memory. @throws code LATHE_OUT_OF_MEMORY when the device's limit would be passed. */
  static empty(device: Device, shape: Shape, dtype: DType = 'f32'): Tensor {
    const { native, kind } = device;
    const handle =
      kind === 'cpu' ? native.tensorCreate(dtype, shape) : native.tensorCreate(dtype, shape, kind);
    return new Tensor(device, handle, shape, dtype);
  }

  static zeros(device: Device, shape: Shape, dtype: DType = 'f32'): Tensor {
    const tensor = Tensor.empty(device, shape, dtype);
    device.native.fill(tensor.handle, 0);
    return tensor;
  }

  /** Copies `data` to the device; `bf16` rounds to nearest even. @throws when the length does not fit the shape. */
  static fromFloat32(device: Device, data: Float32Array, shape: Shape, dtype: FloatDType = 'f32'): Tensor {
    checkLength('fromFloat32', data.length, shape);
    const tensor = Tensor.empty(device, shape, 'f32');
    device.native.tensorWrite(tensor.handle, data);
    if (dtype === 'f32') return tensor;
    const rounded = tensor.cast(dtype);
    tensor.dispose();
    return rounded;
  }

  static fromInt32(device: Device, data: Int32Array, shape: Shape = [data.length]): Tensor {
    checkLength('fromInt32', data.length, shape);
    const tensor = Tensor.empty(device, shape, 'i32');
    device.native.tensorWrite(tensor.handle, data);
    return tensor;
  }

  /** The native handle. @throws after dispose(): using freed memory is a broken invariant. */
  get handle(): Handle {
    if (this.#handle === null)
      throw new Error(`tensor ${this.dtype}[${this.shape}] was used after dispose()`);
    return this.#handle;
  }

  get disposed(): boolean {
    return this.#handle === null;
  }

  get size(): number {
    return elementCount(this.shape);
  }

  get bytes(): number {
    return this.size * BYTES_PER_ELEMENT[this.dtype];
  }

  /** Frees the memory (a view frees only itself) and the gradient with it. Idempotent. */
  dispose(): void {
    if (this.#handle === null) return;
    this.device.native.tensorFree(this.#handle);
    this.#handle = null;
    this.owner?.delete(this);
    this.owner = null;
    this.grad?.dispose();
    this.grad = null;
  }

  /** The size of dimension `axis`. @throws when the tensor has no such dimension. */
  dim(axis: number): number {
    const size = this.shape[axis];
    if (size === undefined) throw new Error(`tensor [${this.shape}] has no dimension ${axis}`);
    return size;
  }

  /** Same elements under another shape; shares storage. */
  reshape(shape: Shape): Tensor {
    if (elementCount(shape) !== this.size) throw new Error(`cannot reshape [${this.shape}] to [${shape}]`);
    return this.#view(0, shape);
  }

  /** Rows [start, end) of the first dimension; shares storage. */
  rows(start: number, end: number): Tensor {
    const [count = 0, ...rest] = this.shape;
    if (!(Number.isInteger(start) && Number.isInteger(end) && 0 <= start && start < end && end <= count)) {
      throw new Error(`rows ${start}..${end} are outside a tensor of shape [${this.shape}]`);
    }
    const rowBytes = elementCount(rest) * BYTES_PER_ELEMENT[this.dtype];
    return this.#view(start * rowBytes, [end - start, ...rest]);
  }

  /** A new tensor of another floating dtype (or a plain copy when the dtype is the same). */
  cast(dtype: FloatDType): Tensor {
    const out = Tensor.empty(this.device, this.shape, dtype);
    if (dtype === this.dtype) this.device.native.copy(out.handle, this.handle);
    else this.device.native.cast(out.handle, this.handle);
    return out;
  }

  clone(): Tensor {
    const out = Tensor.empty(this.device, this.shape, this.dtype);
    this.device.native.copy(out.handle, this.handle);
    return out;
  }

  /** Host copy of the elements as f32 (bf16 widens exactly). */
  toFloat32(): Float32Array<ArrayBuffer> {
    const out = new Float32Array(this.size);
    if (this.dtype === 'f32') {
      this.device.native.tensorRead(this.handle, out);
      return out;
    }
    const wide = this.cast('f32');
    this.device.native.tensorRead(wide.handle, out);
    wide.dispose();
    return out;
  }

  toInt32(): Int32Array<ArrayBuffer> {
    if (this.dtype !== 'i32') throw new Error(`toInt32() of a ${this.dtype} tensor`);
    const out = new Int32Array(this.size);
    this.device.native.tensorRead(this.handle, out);
    return out;
  }

  /** Host copy of the raw little-endian bytes. */
  toBytes(): Uint8Array<ArrayBuffer> {
    const out = new Uint8Array(this.bytes);
    this.device.native.tensorRead(this.handle, out);
    return out;
  }

  #view(byteOffset: number, shape: Shape): Tensor {
    const handle = this.device.native.tensorView(this.handle, byteOffset, shape as number[]);
    return new Tensor(this.device, handle, shape, this.dtype);
  }
}

let innermost: Set<Tensor> | null = null;

/**
 * Runs `fn` and disposes every tensor created inside, except those it returns (in arrays and plain objects too), which
 * move to the surrounding scope, and those given to keep() or saved by a tape. `fn` must be synchronous.
 */
export function scope<T>(fn: () => T): T {
  const outer = innermost;
  const inner = new Set<Tensor>();
  innermost = inner;
  try {
    const result = fn();
    moveTo(result, inner, outer);
    return result;
  } finally {
    innermost = outer;
    for (const tensor of inner) {
      tensor.owner = null;
      tensor.dispose();
    }
  }
}

/** Takes a tensor out of its scope: the caller owns it now and must dispose it. */
export function keep(tensor: Tensor): Tensor {
  tensor.owner?.delete(tensor);
  tensor.owner = null;
  return tensor;
}

/** Disposes a tensor early if a scope still owns it; leaves it alone when a tape or a caller does. */
export function release(tensor: Tensor): void {
  if (tensor.owner !== null) tensor.dispose();
}

function moveTo(value: unknown, inner: Set<Tensor>, outer: Set<Tensor> | null): void {
  if (value instanceof Tensor) {
    if (value.owner !== inner) return;
    inner.delete(value);
    value.owner = outer;
    outer?.add(value);
  } else if (Array.isArray(value)) {
    for (const item of value) moveTo(item, inner, outer);
  } else if (
    value !== null &&
    typeof value === 'object' &&
    Object.getPrototypeOf(value) === Object.prototype
  ) {
    for (const item of Object.values(value)) moveTo(item, inner, outer);
  } else if (value instanceof Promise) {
    throw new Error('scope() needs a synchronous function: its tensors are freed when it returns');
  }
}

function checkLength(verb: string, length: number, shape: Shape): void {
  if (length !== elementCount(shape))
    throw new Error(`${verb}: ${length} elements do not fill shape [${shape}]`);
}
