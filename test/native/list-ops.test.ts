// The list ops of the optimizer against the single ops they are made of, and deferred reads.
import { describe, expect, it } from 'vitest';
import type { Handle } from '../../native/index.ts';
import { bytes, native, seededTensor, tensor, values } from './tensors.ts';

const SIZES = [1, 7, 4096, 5000];
const list = (seed: number, dtype: 'f32' | 'bf16' = 'f32') =>
  SIZES.map((size, i) => seededTensor(dtype, [size], seed + i));
const positive = (seed: number) =>
  list(seed).map((t) => tensor('f32', native.tensorInfo(t).dims, values(t).map(Math.abs)));

/** sum of squares, norm, steps. */
function stateOf(state: Handle): { sum: number; norm: number; steps: bigint } {
  const raw = new DataView(new ArrayBuffer(24));
  native.tensorRead(state, raw);
  return { sum: raw.getFloat64(0, true), norm: raw.getFloat64(8, true), steps: raw.getBigInt64(16, true) };
}

function freshState(): Handle {
  return tensor('u8', [24]);
}

const RATES = [1e-2, 0.9, 0.999, 1e-8, 0.1] as const;

describe('sumSquaresInto', () => {
  it('adds the tensors in order, to the bit', () => {
    const xs = [...list(1), ...list(9, 'bf16')];
    const state = freshState();
    native.sumSquaresInto(state, xs);
    expect(stateOf(state).sum).toBe(xs.reduce((sum, x) => sum + native.sumSquares(x), 0));
  });

  it('is not finite when an element is not', () => {
    const xs = [tensor('f32', [3], [1, Number.NaN, 2]), tensor('f32', [1], [Number.POSITIVE_INFINITY])];
    const state = freshState();
    native.sumSquaresInto(state, xs);
    expect(stateOf(state).sum).toBeNaN();
    native.sumSquaresInto(state, xs.slice(1));
    expect(stateOf(state).sum).toBe(Number.POSITIVE_INFINITY);
  });

  it('refuses a foreign object in the list, a short sum and a freed tensor, naming the argument', () => {
    const state = freshState();
    expect(() => native.sumSquaresInto(state, [{}])).toThrow(/sumSquaresInto: xs: expected a tensor handle/);
    expect(() => native.sumSquaresInto(tensor('u8', [7]), list(1))).toThrow(/sum: needs 8 bytes/);
    const gone = tensor('f32', [4]);
    native.tensorFree(gone);
    expect(() => native.sumSquaresInto(state, [gone])).toThrow(/xs: the tensor was freed/);
    expect(() => native.sumSquaresInto(state, tensor('f32', [4]) as unknown as Handle[])).toThrow(
      /xs: expected an array/,
    );
  });
});

describe('adamwList', () => {
  it('does what adamwStep does to each tensor, clipped by the norm, and rounds the copies', () => {
    const p = list(1);
    const m = list(11);
    const v = positive(21);
    const g = list(31);
    const single = { p: list(1), m: list(11), v: positive(21) };
    const rounded = SIZES.map((size, i) => (i % 2 ? tensor('bf16', [size]) : p[i]!));
    const state = freshState();
    for (const step of [1, 2, 3]) {
      native.sumSquaresInto(state, g);
      const { sum } = stateOf(state);
      const norm = Math.sqrt(sum);
      native.adamwList(state, p, m, v, g, rounded, ...RATES, 2, 0.5);
      const clip = Math.min(1, 0.5 / (norm + 1e-6));
      SIZES.forEach((_, i) => {
        const [lr, beta1, beta2, eps, decay] = RATES;
        const rates = [lr, beta1, beta2, eps, i < 2 ? decay : 0] as const;
        native.adamwStep(single.p[i]!, single.m[i]!, single.v[i]!, g[i]!, ...rates, step, clip);
      });
      expect(stateOf(state)).toEqual({ sum, norm, steps: BigInt(step) });
    }
    SIZES.forEach((size, i) => {
      expect(bytes(p[i]!).equals(bytes(single.p[i]!)), `p[${i}]`).toBe(true);
      expect(bytes(m[i]!).equals(bytes(single.m[i]!)), `m[${i}]`).toBe(true);
      expect(bytes(v[i]!).equals(bytes(single.v[i]!)), `v[${i}]`).toBe(true);
      if (i % 2 === 0) return;
      const expected = tensor('bf16', [size]);
      native.cast(expected, p[i]!);
      expect(bytes(rounded[i]!).equals(bytes(expected)), `rounded[${i}]`).toBe(true);
    });
  });

  it('writes nothing but the norm when a gradient is not finite', () => {
    const [p, m, v] = [list(1), list(11), positive(21)];
    const before = [...p, ...m, ...v].map(bytes);
    const g = list(31);
    native.tensorWrite(g[3]!, Float32Array.of(Number.NaN), 4000);
    const state = freshState();
    native.sumSquaresInto(state, g);
    native.adamwList(state, p, m, v, g, p, ...RATES, 0, 1);
    expect([...p, ...m, ...v].every((t, i) => bytes(t).equals(before[i]!))).toBe(true);
    expect(stateOf(state).norm).toBeNaN();
    expect(stateOf(state).steps).toBe(0n);
  });

  it('refuses lists that do not match', () => {
    const [p, m, v, g] = [list(1), list(11), positive(21), list(31)];
    const state = freshState();
    const call =
      (...lists: Handle[][]) =>
      () =>
        native.adamwList(state, lists[0]!, lists[1]!, lists[2]!, lists[3]!, lists[0]!, ...RATES, 0, 1);
    expect(call(p, m.slice(1), v, g)).toThrow(/m: must have as many tensors as p/);
    expect(call(p, m, v, [...g.slice(0, 3), g[0]!])).toThrow(/g: expected 5000 elements/);
    expect(call(p, m, m, g)).toThrow(/m: overlaps v/);
  });
});

describe('deferred reads', () => {
  it('hold the bytes of the moment they were asked for, once', () => {
    const x = tensor('f32', [3], [1, 2, 3]);
    const later = native.readLater(x);
    native.fill(x, 9);
    expect(native.deferredReady(later)).toBe(true);
    const out = new Float32Array(3);
    native.deferredTake(later, out);
    expect([...out]).toEqual([1, 2, 3]);
    expect(() => native.deferredTake(later, out)).toThrow(/has been taken/);
    expect(() => native.deferredTake(native.readLater(x), new Uint8Array(11))).toThrow(
      /expected 12 bytes, got 11/,
    );
    expect(() => native.deferredReady({})).toThrow(/deferred: expected what readLater returned/);
  });
});

describe('without a CUDA device', () => {
  const info = native.cudaInfo();

  it.runIf(!info.available)('says why, and every door to it fails with that code', () => {
    if (info.available) return;
    expect(info.reason).toMatch(/^no CUDA device: ./);
    const calls: (() => unknown)[] = [
      () => native.tensorCreate('f32', [2], 'cuda'),
      () => native.cudaConfigure({}),
      () => native.captureBegin(),
      () => native.synchronize(),
    ];
    for (const call of calls) {
      try {
        call();
        expect.unreachable('there is no device');
      } catch (error) {
        expect((error as { code?: string }).code).toBe(info.code);
      }
    }
    expect(() => native.tensorCreate('f32', [2], 'tpu' as 'cpu')).toThrow(
      /device: 'tpu' is not one of cpu, cuda/,
    );
  });
});
