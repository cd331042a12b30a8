// The matrix product against float64 on awkward sizes: every type mix, every transpose, alpha and beta, and sizes
// that cross tiles (12 or 6 rows, 32 columns), blocks of k (256) and groups of panels.
import { describe, expect, it } from 'vitest';
import { relativeError } from '../helpers/tolerance.ts';
import { native, seededTensor, tensor, values } from './tensors.ts';

const types = ['f32', 'bf16'] as const;
type FloatType = (typeof types)[number];

function reference(
  a: number[],
  b: number[],
  m: number,
  n: number,
  k: number,
  transA: boolean,
  transB: boolean,
) {
  const c = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let sum = 0;
      for (let x = 0; x < k; x++) {
        sum += (transA ? a[x * m + i]! : a[i * k + x]!) * (transB ? b[j * k + x]! : b[x * n + j]!);
      }
      c[i * n + j] = sum;
    }
  }
  return c;
}

/**
 * f32 sums of k terms: ε√k with room, and never more than the 1e-6 that the engine promises for f32, since blocks of 256 k
 * are summed on their own (chains on AMX tiles are longer: 2e-6). A bf16 result rounds once more (half a unit is at most
 * 2⁻⁸, below the 1e-2 promised). On AMX tiles an f32 operand beside a right one of bf16 enters as two bf16 numbers: 17
 * significant bits, 2⁻¹⁷ at most.
 */
function bound(k: number, a: FloatType, b: FloatType, out: FloatType): number {
  const tiles = native.info().isa === 'amx' && b === 'bf16';
  const split = tiles && a === 'f32' ? 2 ** -17 : 0;
  const sums = Math.min(1e-7 * Math.sqrt(k) + 2e-7, tiles ? 2e-6 : 1e-6);
  return sums + split + (out === 'bf16' ? 2 ** -8 : 0);
}

const norm = (x: ArrayLike<number>) => Math.hypot(...Array.from(x));

function check(
  m: number,
  n: number,
  k: number,
  da: FloatType,
  db: FloatType,
  dc: FloatType,
  transA: boolean,
  transB: boolean,
) {
  const a = seededTensor(da, transA ? [k, m] : [m, k], m + 1);
  const b = seededTensor(db, transB ? [n, k] : [k, n], n + 2);
  const c = seededTensor(dc, [m, n], k + 3);
  const before = values(c);
  const sums = reference(values(a), values(b), m, n, k, transA, transB);
  const label = `${m}×${n}×${k} ${da}·${db}→${dc} ${transA ? 'T' : 'N'}${transB ? 'T' : 'N'}`;
  native.gemm(c, a, b, transA, transB, 0.5, 2);
  const expected = Array.from(sums, (sum, i) => 0.5 * sum + 2 * before[i]!);
  // Both terms' errors count, also where they cancel.
  const condition = (0.5 * norm(sums) + 2 * norm(before)) / norm(expected);
  expect(relativeError(values(c), expected), label).toBeLessThan(condition * bound(k, da, db, dc));
  // beta = 0 must not read what was there.
  const fresh = tensor(dc, [m, n], new Array(m * n).fill(Number.NaN));
  native.gemm(fresh, a, b, transA, transB, 1, 0);
  expect(relativeError(values(fresh), sums), label).toBeLessThan(bound(k, da, db, dc));
}

const sizes = [
  [1, 1, 1],
  [2, 3, 2],
  [13, 33, 17],
  [37, 8, 40],
  [5, 64, 300],
  [50, 31, 3],
  [70, 96, 257],
] as const;

describe.each(native.info().isas)('%s', (isa) => {
  it.each(sizes)('%i×%i×%i in every type and layout', (m, n, k) => {
    native.configure({ isa });
    for (const da of types) {
      for (const db of types) {
        for (const dc of types) {
          for (const transA of [false, true]) {
            for (const transB of [false, true]) check(m, n, k, da, db, dc, transA, transB);
          }
        }
      }
    }
  });

  it('sizes beyond one group of panels and one task', () => {
    native.configure({ isa });
    check(300, 130, 70, 'f32', 'f32', 'f32', false, true);
    check(40, 40, 2100, 'bf16', 'bf16', 'f32', true, false);
    check(8, 200, 700, 'f32', 'bf16', 'f32', true, false);
    check(7, 33, 9728, 'f32', 'f32', 'f32', false, true);
    check(70, 45, 3000, 'bf16', 'bf16', 'bf16', false, true);
    check(290, 40, 1500, 'f32', 'bf16', 'f32', false, false);
    check(65, 66, 5000, 'f32', 'f32', 'f32', true, false);
    check(33, 130, 1100, 'f32', 'f32', 'bf16', false, true); // fewer rows than columns and the reverse: either side is packed
    check(131, 18, 2600, 'f32', 'f32', 'f32', false, true);
    check(66, 48, 300, 'bf16', 'f32', 'f32', false, true);
  });
});
