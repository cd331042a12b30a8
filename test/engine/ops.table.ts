// The shape of one row of the op table, and the bench that runs it on a device: upload, run, read back.
// Knows the native surface, no particular op.
import type { Handle, Native, NativeDevice } from '../../native/index.ts';
import { bf16Bits, fromBf16Bits, type Random } from '../helpers/tolerance.ts';

export type F64 = Float64Array;
export type Values = Record<string, F64>;
export type Handles = Record<string, Handle>;
export type FloatType = 'f32' | 'bf16';

/**
 * One argument of an op. `compute` inputs take the type under test (rounded to it first); the others keep theirs, and
 * values of a bf16 one are drawn as such.
 */
export interface Input {
  values: F64;
  dims: number[];
  dtype?: 'compute' | FloatType | 'i32';
  /** The backward returns a gradient for it. */
  grad?: boolean;
  /** Elements whose gradient is probed, where they are not the problem's. */
  probes?: number;
}

/** One drawn problem: inputs, the float64 answer, and the calls that should give the same. */
export interface Problem {
  inputs: Record<string, Input>;
  /** Outputs by name, in float64, from inputs already rounded to the type under test. */
  reference(x: Values): Values;
  /** Runs the native forward; returns at least the outputs that `reference` names. */
  forward(bench: Bench, x: Handles): Handles;
  /** Runs the native backward for upstream gradients `dy` (one per name in `through`); gradients by input name. */
  backward?(bench: Bench, x: Handles, y: Handles, dy: Handles): Handles;
  /** Outputs that the scalar under differentiation depends on. */
  through?: string[];
  /** Fixed upstream gradient where the op has none of its own (a loss). */
  upstream?: number;
  /** Elements of each input whose gradient is probed (default 128): fewer where the float64 forward is slow. */
  probes?: number;
}

export interface OpCase {
  name: string;
  /** Native functions that this row proves. */
  covers: string[];
  /** Why these tolerances hold. */
  why: string;
  types?: FloatType[];
  tolerance?: {
    f32?: number;
    bf16?: number;
    gradientF32?: number;
    gradientBf16?: number;
    /** Of the inputs that have a bound of their own where products go through bf16 tiles. */
    gradientsOnTiles?: Record<string, number>;
  };
  /** `device` decides only where the devices promise different results; the drawn inputs are the same. */
  make(random: Random, device: NativeDevice): Problem;
}

/** Sizes that are no multiple of any vector width, some that are, and one. */
export const AWKWARD = [1, 2, 5, 7, 16, 17, 31, 33, 48, 65, 100, 129] as const;

/** One device under test for the duration of one row: every tensor it hands out is freed by `close`. */
export class Bench {
  readonly native: Native;
  readonly type: FloatType;
  readonly device: NativeDevice;
  #owned: Handle[] = [];
  #initial = new Map<Handle, F64>();

  constructor(native: Native, type: FloatType, device: NativeDevice = 'cpu') {
    this.native = native;
    this.type = type;
    this.device = device;
  }

  /** Uninitialised tensor of the type under test unless another is named; filled with NaN so that a gap shows. */
  empty(dims: number[], dtype: FloatType | 'i32' = this.type): Handle {
    const size = dims.reduce((a, b) => a * b, 1);
    return this.upload(new Float64Array(size).fill(dtype === 'i32' ? 0 : Number.NaN), dims, dtype);
  }

  upload(values: ArrayLike<number>, dims: number[], dtype: FloatType | 'i32' = this.type): Handle {
    const h = this.native.tensorCreate(dtype, dims, this.device);
    this.#owned.push(h);
    if (dtype === 'f32') this.native.tensorWrite(h, Float32Array.from(values));
    else if (dtype === 'i32') this.native.tensorWrite(h, Int32Array.from(values));
    else this.native.tensorWrite(h, Uint16Array.from(values, bf16Bits));
    return h;
  }

  i32(values: ArrayLike<number>): Handle {
    return this.upload(values, [values.length], 'i32');
  }

  /** A buffer that the op adds into: starts at a known ramp, which `readGradient` takes off again. */
  accumulator(dims: number[], dtype: FloatType = 'f32'): Handle {
    const size = dims.reduce((a, b) => a * b, 1);
    const start = Float64Array.from({ length: size }, (_, i) => ((i % 7) - 3) / 1024);
    const h = this.upload(start, dims, dtype);
    this.#initial.set(h, start);
    return h;
  }

  /** Adopts a handle that an op created (packed weights) so that it is freed too. */
  own(h: Handle): Handle {
    this.#owned.push(h);
    return h;
  }

  read(h: Handle): F64 {
    const { dtype, dims } = this.native.tensorInfo(h);
    const size = dims.reduce((a, b) => a * b, 1);
    if (dtype === 'bf16') {
      const bits = new Uint16Array(size);
      this.native.tensorRead(h, bits);
      return Float64Array.from(bits, fromBf16Bits);
    }
    const values = dtype === 'i32' ? new Int32Array(size) : new Float32Array(size);
    this.native.tensorRead(h, values);
    return Float64Array.from(values);
  }

  readGradient(h: Handle): F64 {
    const start = this.#initial.get(h);
    const now = this.read(h);
    return start ? now.map((value, i) => value - start[i]!) : now;
  }

  bytes(h: Handle): Uint8Array {
    const out = new Uint8Array(this.native.tensorInfo(h).bytes);
    this.native.tensorRead(h, out);
    return out;
  }

  close(): void {
    for (const h of this.#owned) this.native.tensorFree(h);
    this.#owned = [];
  }
}

/** A matrix shape: awkward in both directions, or (one draw in four) long enough to be split among threads. */
export function matrixDims(random: Random): [number, number] {
  return random.integer(0, 3) === 0 ? [3, 33_331] : [random.pick(AWKWARD), random.pick(AWKWARD)];
}

/** Packed boundaries of `count` sequences: the first the longest, the second a single token, the others random. */
export function cuSeqlens(random: Random, count: number, longest: number): number[] {
  const ends = [0];
  for (let n = 0; n < count; n++) {
    ends.push(ends[n]! + (n === 0 ? longest : n === 1 ? 1 : random.integer(1, longest)));
  }
  return ends;
}
