// Error measures, seeded inputs and bf16 rounding for the numeric checks. Knows no devices, models or test runner.

/**
 * The project's bounds on the relative norm ‖ours − reference‖ / ‖reference‖ (per tensor). They are promises,
 * not settings: a failure is a bug to find.
 */
export const TOLERANCE = {
  /** One op in f32 against float64: rounding 6e-8 per operation, sums over at most a few hundred terms. */
  opF32: 1e-5,
  /** One op with bf16 in and out: the store alone costs up to 2^-9 = 2e-3 per element. */
  opBf16: 1e-2,
  /** Native f32 backward against central differences of the float64 forward (whose own error is below 1e-8). */
  opGradient: 1e-4,
  /** Whole model, f32: two orders of f32 evaluation of the same few dozen ops. */
  logitsF32: 1e-5,
  lossF32: 1e-5,
  gradientF32: 1e-4,
  /** Losses of a training run: Adam divides by √v, so rounding of tiny gradients reaches the weights. */
  stepLossF32: 1e-4,
  /** Whole model with bf16 weights; activations as the device stores them. */
  modelBf16: 2e-2,
} as const;

/**
 * ‖actual − expected‖ / ‖expected‖ in float64; ‖actual‖ when the reference is zero; Infinity for any NaN.
 * @throws RangeError when the element counts differ
 */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) {
    throw new RangeError(`${actual.length} elements where ${expected.length} are expected`);
  }
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  const error = norm > 0 ? Math.sqrt(difference / norm) : Math.sqrt(difference);
  return Number.isNaN(error) ? Infinity : error;
}

/** Seed of this run's random inputs: fresh every time, LATHE_TEST_SEED=<n> repeats a run. */
export const RUN_SEED = Number(process.env.LATHE_TEST_SEED ?? Date.now() % 1_000_000_007);

/** Small seeded generator (32-bit state, Weyl step and xor-multiply mixing): test inputs only. */
export class Random {
  #state: number;

  constructor(seed: number, label = '') {
    this.#state = seed >>> 0;
    for (const character of label)
      this.#state = Math.imul(this.#state ^ character.charCodeAt(0), 0x01000193) >>> 0;
    for (let i = 0; i < 4; i++) this.uniform();
  }

  /** In [0, 1). */
  uniform(): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let x = this.#state;
    x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    return ((x ^ (x >>> 16)) >>> 0) / 2 ** 32;
  }

  /** Integer in [low, high], both included. */
  integer(low: number, high: number): number {
    return low + Math.floor(this.uniform() * (high - low + 1));
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.integer(0, choices.length - 1)]!;
  }

  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }

  /** n normal values with the given deviation and mean, each exactly an f32. */
  normals(n: number, deviation = 1, mean = 0): Float64Array {
    return Float64Array.from({ length: n }, () => Math.fround(mean + deviation * this.normal()));
  }

  /** 0 … n−1 in random order. */
  permutation(n: number): number[] {
    const order = Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.integer(0, i);
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
    return order;
  }
}

/** One f32 and its bits: the same four bytes. */
const asFloat = new Float32Array(1);
const asBits = new Uint32Array(asFloat.buffer);

/** The bf16 bits of an f32 value, rounded to nearest even. NaN stays NaN. */
export function bf16Bits(value: number): number {
  asFloat[0] = value;
  const bits = asBits[0]!;
  if (Number.isNaN(value)) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The value of bf16 bits. */
export function fromBf16Bits(bits: number): number {
  asBits[0] = bits << 16;
  return asFloat[0]!;
}

/** Every value rounded to the nearest bf16. */
export function roundBf16(values: Float64Array): Float64Array {
  return values.map((v) => fromBf16Bits(bf16Bits(v)));
}
