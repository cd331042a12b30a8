// The native ops that draw or reduce: dropout and random fills by their statistics and their reproducibility,
// sums and non-finite checks by placed values. The other ops are in ops.test.ts.
import { afterAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { Random, RUN_SEED, relativeError } from '../helpers/tolerance.ts';
import { Bench, type FloatType } from './ops.table.ts';

const { native } = openDevice({ kind: 'cpu' });
const standard = native.info().isa;
const N = 100_003;
const random = new Random(RUN_SEED, 'random ops');
const seed = random.integer(0, 2 ** 31);
const stream = random.integer(0, 2 ** 20);
/** A statistic this far from its mean has probability 6e-7. */
const SIGMAS = 5;

afterAll(() => native.configure({ isa: standard }));

function withBench<T>(type: FloatType, body: (bench: Bench) => T): T {
  const bench = new Bench(native, type);
  try {
    return body(bench);
  } finally {
    bench.close();
  }
}

/** dropout of ones, and of the gradient of ones. */
function masks(type: FloatType, p: number, s: number, at: number, n = N) {
  return withBench(type, (bench) => {
    const ones = bench.upload(new Float64Array(n).fill(1), [n]);
    const [y, dx] = [bench.empty([n]), bench.empty([n])];
    bench.native.dropoutForward(y, ones, p, s, at);
    bench.native.dropoutBackward(dx, ones, p, s, at);
    return { y: bench.read(y), dx: bench.read(dx) };
  });
}

const share = (values: ArrayLike<number>, test: (value: number, i: number) => boolean) =>
  Array.from(values).filter(test).length / values.length;

function expectShare(actual: number, expected: number, n: number): void {
  const sigma = Math.sqrt((expected * (1 - expected)) / n);
  expect(Math.abs(actual - expected), `LATHE_TEST_SEED=${RUN_SEED}`).toBeLessThan(SIGMAS * sigma);
}

for (const isa of native.info().isas) {
  describe(`dropout on ${isa}`, () => {
    const p = 0.3;
    const draw = (...args: Parameters<typeof masks>) => {
      native.configure({ isa });
      return masks(...args);
    };

    it('keeps 1 − p of the elements and scales them by 1 / (1 − p)', () => {
      const { y } = draw('f32', p, seed, stream);
      expectShare(
        share(y, (v) => v !== 0),
        1 - p,
        N,
      );
      const kept = y.filter((v) => v !== 0);
      expect(
        relativeError(
          kept,
          kept.map(() => 1 / (1 - p)),
        ),
      ).toBeLessThan(1e-6);
    });

    it('uses the same mask in the backward, in bf16, and for any length', () => {
      const { y, dx } = draw('f32', p, seed, stream);
      expect(dx).toEqual(y);
      const low = draw('bf16', p, seed, stream);
      expect(low.y.map(Math.sign)).toEqual(y.map(Math.sign));
      expect(low.dx.map(Math.sign)).toEqual(y.map(Math.sign));
      expect(draw('f32', p, seed, stream, 1001).y).toEqual(y.slice(0, 1001));
    });

    it('is independent between neighbours, seeds and streams', () => {
      const { y } = draw('f32', p, seed, stream);
      expectShare(
        share(y, (v, i) => v !== 0 && y[(i + 1) % N] !== 0),
        (1 - p) ** 2,
        N / 2,
      );
      for (const other of [draw('f32', p, seed + 1, stream).y, draw('f32', p, seed, stream + 1).y]) {
        expectShare(
          share(y, (v, i) => v !== 0 && other[i] !== 0),
          (1 - p) ** 2,
          N,
        );
      }
    });

    it('passes everything at p = 0, and refuses p outside [0, 1)', () => {
      expect(draw('f32', 0, seed, stream, 100).y).toEqual(new Float64Array(100).fill(1));
      expect(() => draw('f32', 1, seed, stream, 10)).toThrow(/dropoutForward.*p/);
      expect(() => draw('f32', -0.1, seed, stream, 10)).toThrow(/dropoutForward.*p/);
      expect(() => draw('f32', Number.NaN, seed, stream, 10)).toThrow(/dropoutForward.*p/);
    });
  });

  describe(`random fills on ${isa}`, () => {
    const fill = (kind: 'uniform' | 'normal', a: number, b: number, s = seed, at = stream) => {
      native.configure({ isa });
      return withBench('f32', (bench) => {
        const x = bench.empty([N]);
        if (kind === 'uniform') native.randomUniform(x, a, b, s, at);
        else native.randomNormal(x, a, b, s, at);
        return bench.read(x);
      });
    };

    it('fills uniformly over [lo, hi)', () => {
      const x = fill('uniform', -2, 3);
      expect(x.every((v) => v >= -2 && v <= 3)).toBe(true);
      for (let bin = 0; bin < 20; bin++) {
        const [from, to] = [-2 + bin / 4, -2 + (bin + 1) / 4];
        expectShare(
          share(x, (v) => v >= from && v < to),
          1 / 20,
          N,
        );
      }
    });

    it('fills normally with the given mean and deviation', () => {
      const z = fill('normal', 1.5, 0.25).map((v) => (v - 1.5) / 0.25);
      const mean = z.reduce((a, b) => a + b, 0) / N;
      const variance = z.reduce((a, b) => a + b * b, 0) / N - mean * mean;
      expect(Math.abs(mean)).toBeLessThan(SIGMAS / Math.sqrt(N));
      expect(Math.abs(variance - 1)).toBeLessThan(SIGMAS * Math.sqrt(2 / N));
      // Φ(−2), Φ(−1), Φ(0), Φ(1), Φ(2)
      for (const [at, below] of [
        [-2, 0.02275013],
        [-1, 0.15865525],
        [0, 0.5],
        [1, 0.84134475],
        [2, 0.97724987],
      ] as const) {
        expectShare(
          share(z, (v) => v < at),
          below,
          N,
        );
      }
    });

    it('repeats with the same seed and stream, differs with another', () => {
      const x = fill('normal', 0, 1);
      expect(fill('normal', 0, 1)).toEqual(x);
      for (const other of [fill('normal', 0, 1, seed + 1), fill('normal', 0, 1, seed, stream + 1)]) {
        const correlation = x.reduce((sum, v, i) => sum + v * other[i]!, 0) / N;
        expect(Math.abs(correlation)).toBeLessThan(SIGMAS / Math.sqrt(N));
      }
    });
  });

  describe(`reductions on ${isa}`, () => {
    for (const type of ['f32', 'bf16'] as const) {
      it(`sums squares of ${type} in double precision`, () => {
        native.configure({ isa });
        withBench(type, (bench) => {
          for (const n of [1, 17, 4096, N]) {
            const x = bench.upload(random.normals(n, 1, 0.5), [n]);
            const expected = bench.read(x).reduce((sum, v) => sum + v * v, 0);
            expect(Math.abs(native.sumSquares(x) / expected - 1)).toBeLessThan(1e-12);
          }
        });
      });

      it(`finds a single non-finite ${type} anywhere`, () => {
        native.configure({ isa });
        withBench(type, (bench) => {
          const n = random.integer(1, 5000);
          const values = random.normals(n, 1e30);
          expect(native.hasNonFinite(bench.upload(values, [n]))).toBe(false);
          for (const bad of [Number.NaN, Infinity, -Infinity]) {
            for (const at of [0, n - 1, random.integer(0, n - 1)]) {
              const spoiled = values.slice();
              spoiled[at] = bad;
              expect(native.hasNonFinite(bench.upload(spoiled, [n])), `${bad} at ${at} of ${n}`).toBe(true);
            }
          }
        });
      });
    }
  });
}

describe('products of matrices, bit for bit', () => {
  const [M, N_, K] = [37, 83, 129];

  for (const type of ['f32', 'bf16'] as const) {
    it(`give a row the same ${type} bytes alone, in a batch, and from packed weights`, () => {
      native.configure({ isa: standard });
      withBench(type, (bench) => {
        const a = random.normals(M * K);
        const w = bench.upload(random.normals(N_ * K), [N_, K]);
        const packed = bench.own(native.packWeight(w));
        const whole = bench.empty([M, N_]);
        native.gemm(whole, bench.upload(a, [M, K]), w, false, true, 1, 0);
        const rows = bench.read(whole);
        const fromPacked = bench.empty([M, N_]);
        native.gemmPacked(fromPacked, bench.upload(a, [M, K]), packed, 1, 0);
        expect(bench.read(fromPacked)).toEqual(rows);
        for (const m of [0, 5, M - 1]) {
          const alone = bench.empty([1, N_]);
          const row = bench.upload(a.subarray(m * K, (m + 1) * K), [1, K]);
          native.gemm(alone, row, w, false, true, 1, 0);
          expect(bench.read(alone)).toEqual(rows.subarray(m * N_, (m + 1) * N_));
          native.gemmPacked(alone, row, packed, 1, 0);
          expect(bench.read(alone)).toEqual(rows.subarray(m * N_, (m + 1) * N_));
        }
      });
    });
  }
});

describe('the loss over more rows than one chunk of logits', () => {
  // native code works in chunks of 256 rows or 4 Mi logits, whichever is more rows: 300 rows of 16,500 are two
  const [N_, C, V, SPLIT] = [300, 8, 16_500, 250];

  for (const type of ['f32', 'bf16'] as const) {
    it(`gives every row the ${type} bytes that it has in another batch, and adds up dw`, () => {
      native.configure({ isa: standard });
      withBench(type, (bench) => {
        const x = random.normals(N_ * C);
        const w = bench.upload(random.normals(V * C), [V, C]);
        const targets = Array.from({ length: N_ }, () => random.integer(0, V - 1));
        const dw = [
          bench.upload(new Float64Array(V * C), [V, C], 'f32'),
          bench.upload(new Float64Array(V * C), [V, C], 'f32'),
        ];
        const run = (from: number, to: number, gradient: object) => {
          const rows = to - from;
          const [losses, correct] = [bench.empty([rows], 'f32'), bench.empty([rows], 'i32')];
          const dx = bench.empty([rows, C]);
          const part = bench.upload(x.subarray(from * C, to * C), [rows, C]);
          const index = bench.i32(targets.slice(from, to));
          native.linearCrossEntropy(losses, correct, dx, gradient, part, w, index, null, 0.01);
          return [losses, correct, dx].map((h) => bench.read(h));
        };
        const whole = run(0, N_, dw[0]!);
        const first = run(0, SPLIT, dw[1]!);
        const second = run(SPLIT, N_, dw[1]!);
        whole.forEach((values, i) => {
          expect(
            Buffer.from(values.buffer).equals(
              Buffer.concat([first[i]!, second[i]!].map((v) => Buffer.from(v.buffer))),
            ),
          ).toBe(true);
        });
        expect(relativeError(bench.read(dw[0]!), bench.read(dw[1]!))).toBeLessThan(
          type === 'f32' ? 1e-6 : 1e-2,
        );
      });
    });
  }
});
