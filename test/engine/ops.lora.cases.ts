// Rows of the op table for linear layers with low-rank branches: groups of one to three, with and without dropout.
import { AWKWARD, type F64, type Handles, type OpCase, type Values } from './ops.table.ts';

interface Sizes {
  tokens: readonly number[];
  depths: readonly number[];
  widths: readonly number[];
  /** Of each layer; 0: no branch. */
  ranks: readonly number[];
  probes?: number;
}

const SCALES = [2, 0.5, -1.25] as const;

/** rows of a [n, depth] · b [m, depth]ᵀ, both from an offset, rows `stride` apart. */
function product(a: F64, stride: number, from: number, b: F64, n: number, m: number, depth: number): F64 {
  const out = new Float64Array(n * m);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < m; j++) {
      let sum = 0;
      for (let k = 0; k < depth; k++) sum += a[i * stride + from + k]! * b[j * depth + k]!;
      out[i * m + j] = sum;
    }
  }
  return out;
}

export function loraLinear(name: string, sizes: Sizes, withDropped: boolean): OpCase {
  return {
    name: `loraLinear, ${name}${withDropped ? ', with dropout' : ''}`,
    covers: ['loraLinearForward', 'loraLinearBackward'],
    why: 'sums over K, the rank, N and T ≤ 610 in f32; a bf16 result is rounded once per layer that adds to it',
    make(random) {
      const { ranks } = sizes;
      const beta = random.pick([0, 1]);
      const [T, K] = [random.pick(sizes.tokens), random.pick(sizes.depths)];
      const widths = ranks.map(() => random.pick(sizes.widths));
      const R = ranks.reduce((sum, rank) => sum + rank, 0);
      const layers = ranks.map((rank, i) => ({
        ...{ i, rank, N: widths[i]!, scale: SCALES[i]! },
        first: ranks.slice(0, i).reduce((sum, r) => sum + r, 0),
      }));
      const adapted = layers.filter(({ rank }) => rank > 0);
      const three = <V>(pick: (i: number) => V | undefined): [V | null, V | null, V | null] => [
        pick(0) ?? null,
        pick(1) ?? null,
        pick(2) ?? null,
      ];
      const forward = (v: Values) => {
        const h = product(v.dropped ?? v.x!, K, 0, v.a!, T, R, K);
        const ys = layers.map(({ i, N, rank, first, scale }) => {
          const y = product(v.x!, K, 0, v[`w${i}`]!, T, N, K);
          const low = rank > 0 ? product(h, R, first, v[`b${i}`]!, T, N, rank) : null;
          return [`y${i}`, y.map((value, at) => value + v[`bias${i}`]![at % N]! + scale * (low?.[at] ?? 0))];
        });
        return { h, ...Object.fromEntries(ys) } as Values;
      };
      return {
        inputs: {
          x: { values: random.normals(T * K), dims: [T, K], grad: true },
          ...(withDropped ? { dropped: { values: random.normals(T * K), dims: [T, K], grad: true } } : {}),
          a: { values: random.normals(R * K, 1 / Math.sqrt(K)), dims: [R, K], grad: true },
          ...Object.fromEntries(
            layers.flatMap(({ i, N }) => [
              [`w${i}`, { values: random.normals(N * K, 1 / Math.sqrt(K)), dims: [N, K] }],
              [`bias${i}`, { values: random.normals(N), dims: [N] }],
            ]),
          ),
          ...Object.fromEntries(
            adapted.map(({ i, N, rank }) => [
              `b${i}`,
              { values: random.normals(N * rank, 0.3), dims: [N, rank], grad: true },
            ]),
          ),
        },
        reference: forward,
        through: layers.map(({ i }) => `y${i}`),
        probes: sizes.probes,
        forward(bench, v) {
          const y = layers.map(({ N }) => bench.empty([T, N]));
          const h = bench.empty([T, R], 'f32');
          const [y0, y1, y2] = three((i) => y[i]);
          const [w0, w1, w2] = three((i) => v[`w${i}`]);
          const biases = three((i) => v[`bias${i}`]);
          const bs = three((i) => v[`b${i}`]);
          const dropped = v.dropped ?? null;
          bench.native.loraLinearForward(
            ...([y0!, y1, y2, h, v.x!, dropped, w0!, w1, w2, ...biases, v.a!, ...bs, ...SCALES] as const),
          );
          return { h, ...Object.fromEntries(y.map((handle, i) => [`y${i}`, handle])) };
        },
        backward(bench, v, y, dy) {
          const dx = beta === 0 ? bench.empty([T, K]) : bench.accumulator([T, K], bench.type);
          const ddropped = withDropped ? bench.empty([T, K]) : null;
          const da = bench.accumulator([R, K]);
          const db = layers.map(({ N, rank }) => (rank > 0 ? bench.accumulator([N, rank]) : undefined));
          const [w0, w1, w2] = three((i) => v[`w${i}`]);
          const [dy0, dy1, dy2] = three((i) => dy[`y${i}`]);
          const bs = three((i) => v[`b${i}`]);
          bench.native.loraLinearBackward(
            ...([dx, ddropped, da, ...three((i) => db[i]), dy0!, dy1, dy2] as const),
            ...([v.x!, v.dropped ?? null, y.h!, w0!, w1, w2, v.a!, ...bs, ...SCALES, beta] as const),
          );
          const gradients: Handles = { x: dx, a: da };
          if (ddropped !== null) gradients.dropped = ddropped;
          for (const { i } of adapted) gradients[`b${i}`] = db[i]!;
          return gradients;
        },
      };
    },
  };
}

const small = { tokens: AWKWARD, depths: AWKWARD, widths: AWKWARD, probes: 24 };
const large = { tokens: [66, 97], depths: [300, 610], widths: [130, 70, 33], probes: 3 };

export const LORA_CASES: OpCase[] = [
  loraLinear('one layer', { ...small, ranks: [8] }, false),
  loraLinear('one layer', { ...small, ranks: [3] }, true),
  loraLinear('two layers', { ...small, ranks: [16, 5] }, false),
  loraLinear('three layers', { ...small, ranks: [8, 8, 8] }, false),
  loraLinear('three layers, one without a branch', { ...small, ranks: [4, 0, 11] }, true),
  loraLinear('three layers, only the last with one', { ...small, ranks: [0, 0, 7] }, false),
  loraLinear('larger than its blocks', { ...large, ranks: [8, 8, 8] }, false),
  loraLinear('a rank wider than a panel', { ...large, ranks: [40, 64] }, false),
];
