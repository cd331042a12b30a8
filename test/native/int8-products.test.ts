// Products with int8 weights against their definition in exact integers: every instruction set gives these very bits.
import { afterEach, describe, expect, it } from 'vitest';
import type { Handle } from '../../native/index.ts';
import { bytes, native, seededNumbers, tensor, values } from './tensors.ts';

const initial = native.info();
afterEach(() => native.configure({ isa: initial.isa, threads: initial.threads }));

const { fround } = Math;

/** Ties to even. */
function nearest(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

/** A row's integers and the value of one step, in the kernel's own f32 steps. */
function rounded(row: Float32Array, largest: number): { numbers: number[]; step: number } {
  const peak = row.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  const inverse = fround(largest / peak);
  return {
    numbers: Array.from(row, (x) => nearest(fround(x * inverse))),
    step: peak > 0 ? fround(peak / largest) : 0,
  };
}

/** x·Wᵀ by definition: integer sums, which f64 holds exactly, rounded to f32, times the column's step, times the row's. */
function product(x: Float32Array, w: Float32Array, m: number, n: number, k: number): Float32Array {
  const columns = Array.from({ length: n }, (_, j) => rounded(w.subarray(j * k, (j + 1) * k), 127));
  const c = new Float32Array(m * n);
  for (let i = 0; i < m; i++) {
    const row = rounded(x.subarray(i * k, (i + 1) * k), 32_639);
    columns.forEach((column, j) => {
      let sum = 0;
      for (let t = 0; t < k; t++) sum += row.numbers[t]! * column.numbers[t]!;
      c[i * n + j] = fround(fround(fround(sum) * column.step) * row.step);
    });
  }
  return c;
}

/** Seeded numbers, some of them a thousand times larger, as a trained model's rows have. */
const numbers = (seed: number, count: number): Float32Array =>
  Float32Array.from(seededNumbers(seed, count), (x, i) => (i % 97 === 13 ? x * 1000 : x));

function multiplied(x: Float32Array, packed: Handle, m: number, n: number): Handle {
  const c = tensor('f32', [m, n]);
  native.gemmPacked(c, tensor('f32', [m, x.length / m], x), packed, 1, 0);
  return c;
}

describe.each(initial.isas)('int8 products on %s', (isa) => {
  it.each([
    // Rows of one chunk and of several, columns and depths that fill no panel or step, and more than a block of 512.
    [1, 33, 5],
    [3, 31, 64],
    [5, 70, 600],
    [16, 32, 129],
    [17, 40, 1100],
    [50, 65, 77],
  ])('%i rows, %i columns, depth %i: the bits of the definition', (m, n, k) => {
    native.configure({ isa });
    const [x, w] = [numbers(m, m * k), numbers(n, n * k)];
    const c = multiplied(x, native.packWeightInt8(tensor('f32', [n, k], w)), m, n);
    expect(bytes(c).equals(Buffer.from(product(x, w, m, n, k).buffer))).toBe(true);
  });

  it('sums of the greatest depth do not overflow', () => {
    native.configure({ isa });
    const [n, k] = [2, 2 ** 17];
    // Weights of 127 and of −127; rows of 127·256 + 127, of −127·256 and of −128: the largest sums of high bytes, of low
    // ones and of both.
    const w = Float32Array.from({ length: n * k }, (_, i) => (i < k ? 1 : -1));
    const x = Float32Array.from({ length: 3 * k }, (_, i) =>
      i % k === 0 ? 32_639 : i < k ? 32_639 : i < 2 * k ? -32_512 : -128,
    );
    const c = multiplied(x, native.packWeightInt8(tensor('f32', [n, k], w)), 3, n);
    expect(Array.from(values(c))).toEqual(Array.from(product(x, w, 3, n, k)));
  });

  it('a row that is not finite gives NaN, one of zeros gives zeros, the others their values', () => {
    native.configure({ isa });
    const [m, n, k] = [5, 7, 80];
    const [x, w] = [numbers(1, m * k), numbers(2, n * k)];
    const expected = product(x, w, m, n, k);
    x[3] = Number.NaN;
    x[k + 79] = Number.NEGATIVE_INFINITY;
    x.fill(0, 2 * k, 3 * k);
    const c = Array.from(values(multiplied(x, native.packWeightInt8(tensor('f32', [n, k], w)), m, n)));
    expect(c.slice(0, 2 * n)).toEqual(new Array(2 * n).fill(Number.NaN));
    expect(c.slice(2 * n, 3 * n)).toEqual(new Array(n).fill(0));
    expect(c.slice(3 * n)).toEqual(Array.from(expected.subarray(3 * n)));
  });

  it('alpha and beta apply to the finished product', () => {
    native.configure({ isa });
    const [m, n, k] = [2, 37, 100];
    const [x, w, before] = [numbers(3, m * k), numbers(4, n * k), numbers(5, m * n)];
    const c = tensor('f32', [m, n], before);
    native.gemmPacked(c, tensor('f32', [m, k], x), native.packWeightInt8(tensor('f32', [n, k], w)), 0.5, 2);
    const expected = product(x, w, m, n, k).map((sum, i) => 0.5 * sum + 2 * before[i]!);
    expect(Array.from(values(c))).toEqual(Array.from(expected)); // halves and doubles are exact, one rounding is left
  });
});

it('rows of activations lose what 16 bits lose', () => {
  const [n, k] = [64, 3072];
  const [x, w] = [Float32Array.from(seededNumbers(8, k)), Float32Array.from(seededNumbers(9, n * k))];
  const c = values(multiplied(x, native.packWeightInt8(tensor('f32', [n, k], w)), 1, n));
  let [difference, norm] = [0, 0];
  for (let j = 0; j < n; j++) {
    const { numbers: q, step } = rounded(w.subarray(j * k, (j + 1) * k), 127);
    const exact = q.reduce((sum, number, t) => sum + number * step * x[t]!, 0);
    difference += (c[j]! - exact) ** 2;
    norm += exact ** 2;
  }
  // Uniform error of a step: peak/32,639/√12 of numbers whose root mean square is peak/√3 here, so 1.5e-5.
  expect(Math.sqrt(difference / norm)).toBeLessThan(3e-5);
  expect(difference).toBeGreaterThan(0);
});

it('rows longer than int32 sums allow are refused', () => {
  expect(() => native.packWeightInt8(tensor('f32', [1, 2 ** 17 + 1]))).toThrow(
    'packWeightInt8: w: has rows longer than 131072',
  );
});
