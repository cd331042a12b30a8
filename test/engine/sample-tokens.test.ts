// sampleTokens against a plain implementation in float64, its statistics, and that all instruction sets and devices
// draw the same tokens.
import { afterAll, describe, expect, it } from 'vitest';
import { loadNative } from '../../native/index.ts';
import { uniformAt } from '../../workers/engine/rng.ts';
import { Random, RUN_SEED, relativeError } from '../helpers/tolerance.ts';
import { cudaDevice } from './devices.ts';
import { Bench } from './ops.table.ts';

const native = loadNative();
const { isa: standard, isas } = native.info();
afterAll(() => native.configure({ isa: standard }));

interface RowSettings {
  temperature: number;
  topP: number;
  topK: number;
  seed: number;
  stream: number;
  step: number;
}

const GREEDY: RowSettings = { temperature: 0, topP: 1, topK: 0, seed: 1, stream: 0, step: 0 };

interface Call {
  logits: number[][];
  settings: RowSettings[];
  penalties?: [frequency: number, presence: number];
  counts?: number[][];
  mask?: number[][];
  bias?: [token: number, value: number][][];
  wanted?: number;
}

/** Where each row's part of the flattened lists begins, and where the last one ends. */
function bounds(rows: readonly unknown[][]): number[] {
  let end = 0;
  return [0, ...rows.map((row) => (end += row.length))];
}

/** Runs the op and reads back everything it wrote. */
function sample(call: Call, device: 'cpu' | 'cuda' = 'cpu') {
  const bench = new Bench(native, 'f32', device);
  const { logits, settings, counts, mask, bias, wanted = 2 } = call;
  const [N, V] = [logits.length, logits[0]!.length];
  const [frequency, presence] = call.penalties ?? [0, 0];
  const words = (x: number) => [x | 0, Math.floor(x / 2 ** 32) | 0];
  const tokens = bench.i32(new Array<number>(N).fill(-9));
  const logprobs = bench.empty([N, wanted + 1], 'f32');
  const top = bench.empty([N, wanted], 'i32');
  const adjusted = bench.upload(logits.flat(), [N, V]);
  const counted = counts ? bench.upload(counts.flat(), [counts.length, V], 'i32') : null;
  try {
    native.sampleTokens(
      tokens,
      logprobs,
      top,
      adjusted,
      bench.upload(
        settings.flatMap((s) => [s.temperature, s.topP, frequency, presence]),
        [N, 4],
      ),
      bench.upload(
        settings.flatMap((s, i) => [
          s.topK,
          ...words(s.seed),
          ...words(s.stream),
          s.step,
          counts ? i : -1,
          mask ? i : -1,
        ]),
        [N, 8],
        'i32',
      ),
      bias ? bench.i32(bounds(bias)) : null,
      bias ? bench.i32(bias.flat().map(([token]) => token)) : null,
      bias
        ? bench.upload(
            bias.flat().map(([, value]) => value),
            [bias.flat().length],
          )
        : null,
      counted,
      mask ? bench.upload(mask.flat(), [N, mask[0]!.length], 'i32') : null,
      V,
    );
    return {
      tokens: [...bench.read(tokens)],
      logprobs: [...bench.read(logprobs)],
      top: [...bench.read(top)],
      logits: [...bench.read(adjusted)],
      counts: counted ? [...bench.read(counted)] : null,
    };
  } finally {
    bench.close();
  }
}

/** The same draw with sorting and float64 masses; null where rounding could decide. */
function plainDraw(logits: readonly number[], s: RowSettings): number | null {
  const order = logits.map((_, i) => i).sort((a, b) => logits[b]! - logits[a]! || a - b);
  if (s.temperature === 0 || s.topP === 0) return order[0]!;
  const peak = logits[order[0]!]!;
  const mass = (i: number) => Math.exp((logits[i]! - peak) / s.temperature);
  let kept = s.topK > 0 ? order.slice(0, s.topK) : order;
  if (s.topP < 1) {
    const needed = s.topP * kept.reduce((sum, i) => sum + mass(i), 0);
    let sum = 0;
    let count = 0;
    while (sum < needed) sum += mass(kept[count++]!);
    if (Math.abs(sum - needed) < 1e-5 || Math.abs(sum - mass(kept[count - 1]!) - needed) < 1e-5) return null;
    kept = kept.slice(0, count);
  }
  const target = uniformAt(s.seed, s.stream, s.step) * kept.reduce((sum, i) => sum + mass(i), 0);
  let running = 0;
  for (const i of kept.sort((a, b) => a - b)) {
    running += mass(i);
    if (Math.abs(running - target) < 1e-5 * (1 + target)) return null;
    if (running > target) return i;
  }
  return null;
}

const random = new Random(RUN_SEED, 'sampleTokens');

function randomCall(rows: number, V: number): Call {
  const settings = Array.from({ length: rows }, () => ({
    temperature: random.pick([0, 0.3, 1, 1.7]),
    topP: random.pick([1, 1, 0.9, 0.5, 0]),
    topK: random.pick([0, 0, 1, 5, V + 3]),
    seed: random.integer(0, 2 ** 30) * 2 ** 20 + 77,
    stream: random.integer(0, 9),
    step: random.integer(0, 1000),
  }));
  return {
    logits: settings.map(() => [...random.normals(V, random.pick([0.5, 3]))]),
    settings,
    penalties: [0.25, 0.5],
    counts: settings.map(() => Array.from({ length: V }, () => Math.max(0, random.integer(-6, 3)))),
    mask: settings.map(() =>
      Array.from({ length: Math.ceil(V / 32) }, () => random.integer(0, 2 ** 31 - 1) | 1),
    ),
    bias: settings.map(() =>
      random
        .permutation(V)
        .slice(0, 3)
        .map((token) => [token, random.normal()]),
    ),
    wanted: Math.min(4, V),
  };
}

describe('sampleTokens', () => {
  it('draws what sorting in float64 draws, after mask, penalties and bias', () => {
    let compared = 0;
    for (const V of [1, 2, 33, 1000]) {
      const call = randomCall(40, V);
      if (V < 3) call.bias = call.settings.map(() => []);
      const got = sample(call);
      call.settings.forEach((s, row) => {
        const logits = call.logits[row]!.map((logit, i) => {
          const count = call.counts![row]![i]!;
          const allowed = (call.mask![row]![i >> 5]! >> (i & 31)) & 1;
          const delta = call.bias![row]!.find(([token]) => token === i)?.[1] ?? 0;
          const penalised = Math.fround(logit - (count > 0 ? count * 0.25 + 0.5 : 0));
          return allowed ? Math.fround(penalised + Math.fround(delta)) : Number.NEGATIVE_INFINITY;
        });
        expect(got.logits.slice(row * V, (row + 1) * V)).toEqual(logits);
        const expected = plainDraw(logits, s);
        if (expected === null) return;
        compared++;
        expect(got.tokens[row], `row ${row} of ${V} (LATHE_TEST_SEED=${RUN_SEED})`).toBe(expected);
        const counts = call.counts![row]!.map((count, i) => count + (i === expected ? 1 : 0));
        expect(got.counts!.slice(row * V, (row + 1) * V)).toEqual(counts);
      });
    }
    expect(compared).toBeGreaterThan(120);
  });

  it('reports log-probabilities of the token and of the best ones', () => {
    const V = 500;
    const got = sample({ ...randomCall(6, V), mask: undefined });
    for (let row = 0; row < 6; row++) {
      const logits = got.logits.slice(row * V, (row + 1) * V);
      const peak = Math.max(...logits);
      const total = peak + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - peak), 0));
      const best = logits.map((_, i) => i).sort((a, b) => logits[b]! - logits[a]! || a - b);
      expect(got.top.slice(row * 4, row * 4 + 4)).toEqual(best.slice(0, 4));
      const wanted = [got.tokens[row]!, ...best.slice(0, 4)].map((i) => logits[i]! - total);
      expect(relativeError(got.logprobs.slice(row * 5, row * 5 + 5), wanted)).toBeLessThan(1e-5);
    }
  });

  it('draws in proportion, and the same again', () => {
    const probabilities = [0.5, 0.3, 0.15, 0.05];
    const draws = 4000;
    const call = {
      logits: Array.from({ length: draws }, () => probabilities.map(Math.log)),
      settings: Array.from({ length: draws }, (_, step) => ({
        ...GREEDY,
        temperature: 1,
        seed: RUN_SEED,
        step,
      })),
    };
    const { tokens } = sample(call);
    const shares = probabilities.map((_, i) => tokens.filter((token) => token === i).length / draws);
    shares.forEach((share, i) => {
      expect(Math.abs(share - probabilities[i]!)).toBeLessThan(5 * Math.sqrt(0.25 / draws));
    });
    expect(sample(call).tokens).toEqual(tokens);
  });

  it('breaks ties towards lower ids and answers -1 or -2 where nothing can be said', () => {
    const [nan, no, inf] = [Number.NaN, Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
    const logits = [
      [1, 3, 3, 0],
      [1, nan, 2, 0],
      [no, no, no, no],
      [0, inf, 0, 0],
    ];
    const got = sample({ logits, settings: logits.map(() => GREEDY) });
    expect(got.tokens).toEqual([1, -1, -1, -1]);
    expect(got.top.slice(0, 4)).toEqual([1, 2, -1, -1]);
    expect(got.logprobs.slice(3).every(Number.isNaN)).toBe(true);
    const masked = sample({ logits: [logits[0]!, logits[1]!], settings: [GREEDY, GREEDY], mask: [[0], [0]] });
    expect(masked.tokens).toEqual([-2, -1]);
    const nucleus = { ...GREEDY, temperature: 1, topP: 0.35 };
    const equal = Array.from({ length: 50 }, () => new Array<number>(10).fill(2));
    const drawn = sample({ logits: equal, settings: equal.map((_, step) => ({ ...nucleus, step })) });
    expect(Math.max(...drawn.tokens)).toBe(3);
  });

  it('draws the same tokens on every instruction set and device', () => {
    const call = randomCall(32, 700);
    native.configure({ isa: standard });
    const expected = sample(call);
    for (const isa of isas) {
      native.configure({ isa });
      expect(sample(call).tokens, isa).toEqual(expected.tokens);
    }
    if (cudaDevice.available) {
      const got = sample(call, 'cuda');
      expect(got.tokens).toEqual(expected.tokens);
      expect(got.top).toEqual(expected.top);
      expect(got.counts).toEqual(expected.counts);
      expect(relativeError(got.logprobs, expected.logprobs)).toBeLessThan(1e-5);
    }
  });
});
