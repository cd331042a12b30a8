import { describe, expect, it } from 'vitest';
import { argmax, type SamplingOptions, sampleToken } from '../helpers/sample-naive.ts';

const LOGITS = Float32Array.of(1, 3, 3, 0.5, -2);
const options = (extra: Partial<SamplingOptions> = {}): SamplingOptions => ({
  temperature: 1,
  seed: 5,
  position: 0,
  ...extra,
});
const softmax = (logits: ArrayLike<number>, temperature = 1) => {
  const weights = Array.from(logits, (value) => Math.exp(value / temperature));
  const total = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / total);
};
/** How often each token comes up in `draws` positions. */
const frequencies = (extra: Partial<SamplingOptions>, draws = 4000) => {
  const counts = new Array(LOGITS.length).fill(0);
  for (let position = 0; position < draws; position++) {
    counts[sampleToken(LOGITS, options({ ...extra, position })).token]++;
  }
  return counts.map((count) => count / draws);
};

describe('sampleToken', () => {
  it('takes the lowest id among equals at temperature 0', () => {
    expect(sampleToken(LOGITS, options({ temperature: 0 })).token).toBe(1);
    expect(argmax(Float32Array.of(-1, -1))).toBe(0);
  });

  it('is a function of seed, stream and position', () => {
    const tokens = (seed: number, stream: number) =>
      Array.from(
        { length: 30 },
        (_, position) => sampleToken(LOGITS, options({ seed, stream, position })).token,
      );
    expect(tokens(5, 0)).toEqual(tokens(5, 0));
    expect(tokens(6, 0)).not.toEqual(tokens(5, 0));
    expect(tokens(5, 1)).not.toEqual(tokens(5, 0));
  });

  it.each([0.5, 1, 2])('draws from the softmax at temperature %s', (temperature) => {
    const expected = softmax(LOGITS, temperature);
    // 4000 draws: a standard error of at most 0.008
    for (const [i, share] of frequencies({ temperature }).entries()) {
      expect(Math.abs(share - expected[i]!)).toBeLessThan(0.03);
    }
  });

  it('keeps the nucleus: the fewest best tokens that hold top_p', () => {
    expect(frequencies({ top_p: 0.4 }, 500)).toEqual([0, 1, 0, 0, 0]);
    const two = frequencies({ top_p: 0.5 }, 500);
    expect(two[0]! + two[3]! + two[4]!).toBe(0);
    expect(two[1]! > 0 && two[2]! > 0).toBe(true);
    expect(frequencies({ top_p: 0 }, 50)).toEqual([0, 1, 0, 0, 0]);
  });

  it('keeps the top_k best tokens', () => {
    expect(frequencies({ top_k: 1 }, 100)).toEqual([0, 1, 0, 0, 0]);
    const three = frequencies({ top_k: 3 }, 800);
    expect(three[3]! + three[4]!).toBe(0);
    expect(three[0]).toBeGreaterThan(0);
  });

  it('applies bias and penalties before choosing and before reporting', () => {
    const greedy = (extra: Partial<SamplingOptions>) =>
      sampleToken(LOGITS, options({ temperature: 0, ...extra }));
    expect(greedy({ logit_bias: [[4, 100]] }).token).toBe(4);
    expect(greedy({ logit_bias: [[1, -100]] }).token).toBe(2);
    expect(greedy({ counts: new Map([[1, 1]]), presence_penalty: 0.1 }).token).toBe(2);
    const counts = new Map([
      [1, 3],
      [2, 1],
    ]);
    expect(greedy({ counts, frequency_penalty: 0.1 }).token).toBe(2);
    const biased = softmax([1, 3, 3, 0.5, 8]);
    expect(greedy({ logit_bias: [[4, 10]] }).logprob).toBeCloseTo(Math.log(biased[4]!), 6);
    expect(LOGITS[4]).toBe(-2);
  });

  it('reports log-probabilities at temperature 1, best first', () => {
    const { top, logprob, token } = sampleToken(LOGITS, options({ temperature: 0, top_logprobs: 3 }));
    const expected = softmax(LOGITS);
    expect(top.map((entry) => entry.token)).toEqual([1, 2, 0]);
    for (const entry of top) expect(entry.logprob).toBeCloseTo(Math.log(expected[entry.token]!), 6);
    expect(logprob).toBeCloseTo(Math.log(expected[token]!), 6);
  });

  it('refuses logits without a finite maximum', () => {
    expect(() => sampleToken(Float32Array.of(1, Number.NaN), options())).toThrow(/token 1 is NaN/);
    expect(() => sampleToken(Float32Array.of(-Infinity, -Infinity), options())).toThrow(/no finite maximum/);
  });
});
