// The addon's own exp, log, sine and cosine, and its random words, seen through the ops that use them.
import { describe, expect, it } from 'vitest';
import { native, tensor, values } from './tensors.ts';

const F32_EPSILON = 2 ** -23;

describe.each(native.info().isas)('%s', (isa) => {
  it('exp: σ to a few units in the last place over its whole range', () => {
    native.configure({ isa });
    const x = Float32Array.from({ length: 4001 }, (_, i) => (i - 2000) / 23);
    const y = tensor('f32', [x.length]);
    native.swigluForward(
      y,
      tensor('f32', [x.length], x),
      tensor('f32', [x.length], new Array(x.length).fill(1)),
    );
    values(y).forEach((actual, i) => {
      const expected = x[i]! / (1 + Math.exp(-x[i]!));
      // Below −87.33 exp(−x) is near the top of f32: the quotient may be subnormal, its absolute error tiny.
      expect(Math.abs(actual - expected)).toBeLessThanOrEqual(Math.abs(expected) * 4 * F32_EPSILON + 1e-36);
    });
  });

  it('exp and log: cross-entropy of extreme logits stays exact', () => {
    native.configure({ isa });
    for (const logits of [
      [0, 0],
      [80, -80],
      [-1e4, 1e4],
      [3, 3 + 1e-3],
      [-50, -50],
    ]) {
      const losses = tensor('f32', [2]);
      const correct = tensor('i32', [2]);
      const x = tensor('f32', [2, 1], [1, 1]);
      native.linearCrossEntropy(
        losses,
        correct,
        null,
        null,
        x,
        tensor('f32', [2, 1], logits),
        tensor('i32', [2], [0, 1]),
        null,
        1,
      );
      const top = Math.max(...logits.map(Math.fround));
      const lse = top + Math.log(logits.reduce((sum, v) => sum + Math.exp(Math.fround(v) - top), 0));
      values(losses).forEach((loss, i) => {
        const expected = lse - Math.fround(logits[i]!);
        expect(Math.abs(loss - expected)).toBeLessThanOrEqual(
          4 * F32_EPSILON * Math.max(1, Math.abs(top), expected),
        );
      });
      // The first of equal logits is the argmax.
      const best = logits[0]! >= logits[1]! ? 0 : 1;
      expect(values(correct)).toEqual([best === 0 ? 1 : 0, best === 1 ? 1 : 0]);
    }
  });

  it('Philox4x32-10: the published test vector and one stream per (seed, stream)', () => {
    native.configure({ isa });
    const x = tensor('f32', [4]);
    native.randomUniform(x, 0, 1, 0, 0);
    // Random123's known answer for counter 0 and key 0; the op keeps the upper 24 bits of each word.
    const words = [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8];
    expect(values(x)).toEqual(words.map((word) => (word >>> 8) * 2 ** -24));
    const draw = (seed: number | bigint, stream: number | bigint, count: number) => {
      const y = tensor('f32', [count]);
      native.randomUniform(y, 0, 1, seed, stream);
      return values(y);
    };
    const long = draw(5, 9, 40_000);
    expect(draw(5n, 9n, 37)).toEqual(long.slice(0, 37));
    expect(draw(5, 10, 37)).not.toEqual(long.slice(0, 37));
    expect(draw(6, 9, 37)).not.toEqual(long.slice(0, 37));
    expect(draw(5, 9n + 2n ** 32n, 37)).not.toEqual(long.slice(0, 37));
    expect(long.reduce((a, b) => a + b) / long.length).toBeCloseTo(0.5, 2);
  });

  it('normal numbers have the moments and the tails they should', () => {
    native.configure({ isa });
    const x = tensor('f32', [100_000]);
    native.randomNormal(x, 1, 2, 3, 4);
    const z = values(x).map((v) => (v - 1) / 2);
    const moment = (power: number) => z.reduce((sum, v) => sum + v ** power, 0) / z.length;
    expect(Math.abs(moment(1))).toBeLessThan(0.015);
    expect(Math.abs(moment(2) - 1)).toBeLessThan(0.02);
    expect(Math.abs(moment(3))).toBeLessThan(0.04);
    expect(Math.abs(moment(4) - 3)).toBeLessThan(0.12);
    expect(z.filter((v) => Math.abs(v) > 3).length).toBeGreaterThan(180);
    const neighbours = z.slice(1).reduce((sum, v, i) => sum + v * z[i]!, 0) / z.length;
    expect(Math.abs(neighbours)).toBeLessThan(0.015);
  });

  it('dropout keeps 1 − p of the elements, scaled, and its backward has the same mask', () => {
    native.configure({ isa });
    const n = 50_000;
    const ones = tensor('f32', [n], new Array(n).fill(1));
    const y = tensor('f32', [n]);
    const dx = tensor('f32', [n]);
    native.dropoutForward(y, ones, 0.1, 1, 2);
    native.dropoutBackward(dx, ones, 0.1, 1, 2);
    const kept = values(y).filter((v) => v !== 0);
    expect(kept.length / n).toBeCloseTo(0.9, 2);
    expect(new Set(kept)).toEqual(new Set([Math.fround(1 / (1 - Math.fround(0.1)))]));
    expect(values(dx)).toEqual(values(y));
  });
});

describe('types', () => {
  it('casts to bf16 by rounding to nearest even, keeping NaN and infinities', () => {
    const x = [1, 1.00390625, 1.01171875, -2.5, 3.4e38, Number.POSITIVE_INFINITY, Number.NaN, 1e-40, 0];
    const half = tensor('bf16', [x.length]);
    native.cast(half, tensor('f32', [x.length], x));
    expect(values(half).slice(0, 4)).toEqual([1, 1, 1.015625, -2.5]);
    expect(values(half).slice(4, 7)).toEqual([
      Number.POSITIVE_INFINITY,
      Number.POSITIVE_INFINITY,
      Number.NaN,
    ]);
    // Subnormal: the bf16 grid there is 2⁻¹³³ ≈ 9.2e-41 wide.
    expect(values(half).slice(7)).toEqual([2 ** -133, 0]);
  });

  it('finds NaN and infinities wherever they are', () => {
    for (const dtype of ['f32', 'bf16'] as const) {
      for (const at of [0, 16_383, 16_384, 40_000]) {
        for (const bad of [Number.NaN, Number.NEGATIVE_INFINITY]) {
          const x = new Array(40_001).fill(3e38);
          x[at] = bad;
          expect(native.hasNonFinite(tensor(dtype, [x.length], x))).toBe(true);
        }
      }
      expect(native.hasNonFinite(tensor(dtype, [40_001], new Array(40_001).fill(3e38)))).toBe(false);
    }
  });
});
