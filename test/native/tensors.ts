// Handles with values for the addon's own tests: seeded numbers in, plain arrays out. Knows only native/.
import { type Handle, loadNative, type NativeDtype } from '../../native/index.ts';

export const native = loadNative();

const made = new Map<string, number[]>();

/** Linear congruential numbers in [−1, 1), made once per (seed, count): the tests need variety, not quality. */
export function seededNumbers(seed: number, count: number): number[] {
  const key = `${seed} ${count}`;
  const known = made.get(key);
  if (known) return known;
  let state = seed >>> 0;
  const numbers = Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 32) * 2 - 1;
  });
  made.set(key, numbers);
  return numbers;
}

const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);

/** Nearest bf16, ties to even, as its 16 bits; NaN keeps a set bit of its fraction. */
export function bf16Bits(value: number): number {
  float[0] = value;
  const bits = word[0]!;
  if (Number.isNaN(value)) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

function bf16Value(bits: number): number {
  word[0] = bits << 16;
  return float[0]!;
}

const sizeOf = (dims: readonly number[]) => dims.reduce((a, b) => a * b, 1);

/** A tensor holding `values` (rounded to the type), or zeros. */
export function tensor(dtype: NativeDtype, dims: readonly number[], values?: ArrayLike<number>): Handle {
  const handle = native.tensorCreate(dtype, dims);
  const data = values ?? new Uint8Array(sizeOf(dims));
  if (dtype === 'f32') native.tensorWrite(handle, Float32Array.from(data));
  else if (dtype === 'i32') native.tensorWrite(handle, Int32Array.from(data));
  else if (dtype === 'u8') native.tensorWrite(handle, Uint8Array.from(data));
  else native.tensorWrite(handle, Uint16Array.from(data, bf16Bits));
  return handle;
}

export function seededTensor(
  dtype: 'f32' | 'bf16',
  dims: readonly number[],
  seed: number,
  scale = 1,
): Handle {
  const numbers = seededNumbers(seed, sizeOf(dims));
  return tensor(dtype, dims, scale === 1 ? numbers : numbers.map((x) => x * scale));
}

/** The elements as numbers (bf16 widened). */
export function values(handle: Handle): number[] {
  const { dtype, dims } = native.tensorInfo(handle);
  const count = sizeOf(dims);
  const target =
    dtype === 'f32'
      ? new Float32Array(count)
      : dtype === 'i32'
        ? new Int32Array(count)
        : dtype === 'u8'
          ? new Uint8Array(count)
          : new Uint16Array(count);
  native.tensorRead(handle, target);
  return dtype === 'bf16' ? Array.from(target, bf16Value) : Array.from(target);
}

/** The raw bytes, for comparisons that must be exact. */
export function bytes(handle: Handle): Buffer {
  const target = Buffer.alloc(native.tensorInfo(handle).bytes);
  native.tensorRead(handle, target);
  return target;
}
