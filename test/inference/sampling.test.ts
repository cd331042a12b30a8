/** One row of logits → a token: determinism, nucleus, penalties, bias, log-probabilities. */
import { describe, expect, it } from 'vitest';
import type { WireSampling } from '../../src/inference/protocol.ts';
import { uniformAt } from '../../workers/engine/rng.ts';
import type { Sample } from '../../workers/inference/sample.ts';
import { Sampler } from '../../workers/inference/sampling.ts';
import { PLAIN_SAMPLING } from '../helpers/plain-sampling.ts';
import { sampleToken } from '../helpers/sample-naive.ts';

const defaults: WireSampling = { ...PLAIN_SAMPLING, logprobs: true };
const create = (o: Partial<WireSampling> = {}, seed = 1, choice = 0): Sampler =>
  new Sampler({ ...defaults, ...o }, seed, choice);
const row = (values: number[]): Float32Array => Float32Array.from(values);
function draw(sampler: Sampler, values: number[]): Sample {
  const sample = sampler.sample(row(values));
  if (typeof sample === 'string') throw new Error(sample);
  return sample;
}

describe('sampling', () => {
  it('takes the best token at temperature 0 and at top_p 0, the lower id on a tie', () => {
    expect(draw(create({ temperature: 0 }), [1, 3, 3, 2]).token).toBe(1);
    expect(draw(create({ top_p: 0 }), [1, 2, 3, 3]).token).toBe(2);
  });

  it('draws with the softmax frequencies', () => {
    const sampler = create();
    const logits = [0, Math.log(2), Math.log(5)];
    const counts = [0, 0, 0];
    const draws = 8000;
    for (let i = 0; i < draws; i++) counts[draw(sampler, logits).token]!++;
    [1 / 8, 2 / 8, 5 / 8].forEach((p, i) => {
      expect(Math.abs(counts[i]! / draws - p)).toBeLessThan(5 * Math.sqrt((p * (1 - p)) / draws));
    });
  });

  it('sharpens with temperature', () => {
    const sampler = create({ temperature: 0.5 });
    let best = 0;
    for (let i = 0; i < 4000; i++) best += draw(sampler, [0, Math.log(3)]).token;
    expect(Math.abs(best / 4000 - 0.9)).toBeLessThan(0.025); // 3² : 1
  });

  it('keeps to the smallest set of best tokens that holds top_p', () => {
    const logits = [Math.log(0.5), Math.log(0.05), Math.log(0.3), Math.log(0.15)];
    const seen = (top_p: number): number[] => {
      const sampler = create({ top_p });
      const tokens = new Set<number>();
      for (let i = 0; i < 500; i++) tokens.add(draw(sampler, logits).token);
      return [...tokens].sort();
    };
    expect(seen(0.45)).toEqual([0]);
    expect(seen(0.6)).toEqual([0, 2]);
    expect(seen(0.9)).toEqual([0, 2, 3]);
    expect(seen(1)).toEqual([0, 1, 2, 3]);
  });

  it('finds the nucleus of a flat distribution, where no token is near the peak alone', () => {
    const logits = Array.from({ length: 1000 }, (_, i) => -i * 0.1);
    const sampler = create({ top_p: 0.999, temperature: 2 });
    let largest = 0;
    for (let i = 0; i < 3000; i++) largest = Math.max(largest, draw(sampler, logits).token);
    // Σ_{k ≤ K} e^(−k/20) / Σ e^(−k/20) ≥ 0.999 first at K = 138
    expect(largest).toBeLessThanOrEqual(138);
    expect(largest).toBeGreaterThan(80);
  });

  it('is a function of seed, choice and position alone', () => {
    const logits = Array.from({ length: 50 }, (_, i) => Math.sin(i));
    const run = (seed: number, choice: number): number[] => {
      const sampler = create({}, seed, choice);
      return Array.from({ length: 20 }, () => draw(sampler, logits).token);
    };
    expect(run(7, 0)).toEqual(run(7, 0));
    expect(run(7, 0)).not.toEqual(run(8, 0));
    expect(run(7, 0)).not.toEqual(run(7, 1));
  });

  it('subtracts the penalties for what was sampled, once and per count', () => {
    const sampler = create({ temperature: 0, presence_penalty: 0.5, frequency_penalty: 1 });
    const logits = [5, 4.2, 3.9];
    // 5 → token 0, then 3.5: 4.2 → token 1, then 2.7: 3.9 → token 2, then 3.5 of token 0 leads
    expect([1, 2, 3, 4].map(() => draw(sampler, logits).token)).toEqual([0, 1, 2, 0]);
  });

  it('adds logit_bias, strong enough to force or forbid a token', () => {
    expect(draw(create({ temperature: 0, logit_bias: { 2: 100 } }), [5, 4, -3]).token).toBe(2);
    expect(draw(create({ temperature: 0, logit_bias: { 0: -100 } }), [5, 4, -3]).token).toBe(1);
  });

  it('reports log-probabilities at temperature 1 after bias, best first', () => {
    const { logprob, top } = draw(
      create({ temperature: 0, top_logprobs: 3, logit_bias: { 0: 1 } }),
      [0, 0, 2, -1],
    );
    const total = Math.log(Math.E + 1 + Math.exp(2) + Math.exp(-1));
    expect(logprob).toBeCloseTo(2 - total, 6);
    expect(top.map(([token]) => token)).toEqual([2, 0, 1]);
    expect(top[1]![1]).toBeCloseTo(1 - total, 6);
    const everything = draw(create({ top_logprobs: 4 }), [0, 0, 2, -1]).top;
    expect(everything.reduce((sum, [, value]) => sum + Math.exp(value), 0)).toBeCloseTo(1, 6);
  });

  it('refuses rows without a usable peak instead of inventing a token', () => {
    expect(create().sample(row([0, Number.NaN]))).toBe('not-finite');
    expect(create().sample(row([0, Number.POSITIVE_INFINITY]))).toBe('not-finite');
    expect(create().sample(row([Number.NEGATIVE_INFINITY]))).toBe('not-finite');
    expect(draw(create(), [Number.NEGATIVE_INFINITY, 0]).token).toBe(1);
  });

  it("agrees with the engine library's plain version in every option", () => {
    let nuclei = 0;
    for (let seed = 1; seed <= 120; seed++) {
      const at = (stream: number, index: number): number => uniformAt(seed, stream, index);
      const temperature = [0, 0.3, 1, 2][seed % 4]!;
      const top_p = [1, 0.9, 0.5, 0.05][Math.floor(seed / 4) % 4]!;
      const spread = [0.1, 3, 30][seed % 3]!;
      const options = {
        temperature,
        top_p,
        top_logprobs: seed % 6,
        presence_penalty: 0.3,
        frequency_penalty: 0.2,
      };
      const sampler = create({ ...options, logit_bias: { 3: 1.5, 5: -100 } }, seed, 2);
      const counts = new Map<number, number>();
      for (let position = 0; position < 8; position++) {
        const logits = row(Array.from({ length: 200 }, (_, i) => spread * (at(position, i) - 0.5)));
        const bias = new Map([
          [3, 1.5],
          [5, -100],
        ]);
        const expected = sampleToken(logits, {
          ...options,
          seed,
          stream: 2,
          position,
          counts,
          logit_bias: bias,
        });
        const sample = draw(sampler, [...logits]);
        expect(sample.token).toBe(expected.token);
        expect(sample.logprob).toBeCloseTo(expected.logprob, 9);
        expect(sample.top.map(([token]) => token)).toEqual(expected.top.map(({ token }) => token));
        counts.set(sample.token, (counts.get(sample.token) ?? 0) + 1);
        if (temperature > 0 && top_p < 1) nuclei++;
      }
    }
    expect(nuclei).toBeGreaterThan(300);
  });
});
