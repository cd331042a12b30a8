// Rows of the op table for matrix products and the loss on top of one.
import * as f64 from '../helpers/float64.ts';
import { roundBf16 } from '../helpers/tolerance.ts';
import { AWKWARD, type FloatType, type OpCase } from './ops.table.ts';

type Mix = [c: FloatType, a: FloatType, b: FloatType];

const MIXES: Mix[] = (['f32', 'bf16'] as const).flatMap((c) =>
  (['f32', 'bf16'] as const).flatMap((a) => (['f32', 'bf16'] as const).map((b): Mix => [c, a, b])),
);

const SIZES = [...AWKWARD, 255, 300] as const;

/**
 * One transposition and one choice of dtypes. The drawn values are bf16-representable wherever the operand is bf16,
 * so an f32 result owes nothing to the inputs' type: it must be as exact as in f32.
 */
function gemmCase(transA: boolean, transB: boolean, [c, a, b]: Mix): OpCase {
  const limit = c === 'f32' ? 1e-5 : 1e-2;
  return {
    name: `gemm ${transA ? 'Aᵀ' : 'A'}·${transB ? 'Bᵀ' : 'B'}, ${c} = ${a} · ${b}`,
    covers: ['gemm'],
    why: 'products of bf16 values are exact in f32 and sums of 300 lose about 1e-6; a bf16 result adds its rounding',
    types: ['f32'],
    tolerance: { f32: limit },
    make(random, device) {
      const [M, N, K] = [random.pick(SIZES), random.pick(SIZES), random.pick(SIZES)];
      const [alpha, beta] = random.pick([
        [1, 0],
        [1, 1],
        [0.5, -0.25],
      ] as const);
      const g: f64.GemmShape = { M, N, K, transA, transB, alpha, beta };
      const draw = (n: number, type: FloatType) => {
        const values = random.normals(n);
        return type === 'bf16' ? roundBf16(values) : values;
      };
      const [aValues, bValues, cValues] = [draw(M * K, a), draw(K * N, b), draw(M * N, c)];
      // CUDA rounds the f32 operand of a mixed product to bf16 first (native/cuda/README.md): exactly that is its answer.
      const counted = (values: Float64Array) => (device === 'cuda' && a !== b ? roundBf16(values) : values);
      return {
        inputs: {},
        reference: () => ({ out: f64.gemm(g, counted(aValues), counted(bValues), cValues) }),
        forward(bench) {
          const left = bench.upload(aValues, transA ? [K, M] : [M, K], a);
          const right = bench.upload(bValues, transB ? [N, K] : [K, N], b);
          // with beta 0 the old contents are NaN and must not be read
          const out = beta === 0 ? bench.empty([M, N], c) : bench.upload(cValues, [M, N], c);
          bench.native.gemm(out, left, right, transA, transB, alpha, beta);
          return { out };
        },
      };
    },
  };
}

/** Sizes beyond any cache block, so that partial blocks in all three directions are met. */
function largeGemmCase(transA: boolean, transB: boolean): OpCase {
  return {
    name: `gemm ${transA ? 'Aᵀ' : 'A'}·${transB ? 'Bᵀ' : 'B'}, larger than its blocks`,
    covers: ['gemm'],
    why: 'sums of up to 800 terms in f32; a bf16 result adds its rounding',
    make(random) {
      const [M, N, K] = [random.integer(130, 200), random.integer(200, 300), random.integer(520, 800)];
      const g: f64.GemmShape = { M, N, K, transA, transB, alpha: 1, beta: 1 };
      return {
        inputs: {
          a: { values: random.normals(M * K), dims: transA ? [K, M] : [M, K] },
          b: { values: random.normals(N * K), dims: transB ? [N, K] : [K, N] },
          c: { values: random.normals(M * N), dims: [M, N] },
        },
        reference: ({ a, b, c }) => ({ out: f64.gemm(g, a!, b!, c!) }),
        forward(bench, { a, b, c }) {
          bench.native.gemm(c!, a!, b!, transA, transB, 1, 1);
          return { out: c! };
        },
      };
    },
  };
}

/** y = x·Wᵀ differentiated through the two products that the engine uses: dx = dy·W, dW = dyᵀ·x. */
const linear: OpCase = {
  name: 'linear forward and backward as gemm',
  covers: ['gemm'],
  why: 'three products with sums of at most 129 terms',
  make(random) {
    const [T, K, N] = [random.pick(AWKWARD), random.pick(AWKWARD), random.pick(AWKWARD)];
    const g: f64.GemmShape = { M: T, N, K, transA: false, transB: true, alpha: 1, beta: 0 };
    return {
      inputs: {
        x: { values: random.normals(T * K), dims: [T, K], grad: true },
        w: { values: random.normals(N * K), dims: [N, K], grad: true },
      },
      reference: ({ x, w }) => ({ y: f64.gemm(g, x!, w!, x!) }),
      through: ['y'],
      forward(bench, { x, w }) {
        const y = bench.empty([T, N]);
        bench.native.gemm(y, x!, w!, false, true, 1, 0);
        return { y };
      },
      backward(bench, { x, w }, _y, { y: dy }) {
        const dx = bench.empty([T, K]);
        const dw = bench.accumulator([N, K]);
        bench.native.gemm(dx, dy!, w!, false, false, 1, 0);
        bench.native.gemm(dw, dy!, x!, true, false, 1, 1);
        return { x: dx, w: dw };
      },
    };
  },
};

export const packed: OpCase = {
  name: 'gemmPacked',
  covers: ['packWeight', 'gemmPacked'],
  why: 'the same sums as gemm from another layout of W',
  make(random) {
    const [M, N, K] = [random.pick(SIZES), random.pick(SIZES), random.pick(SIZES)];
    const beta = random.pick([0, 1]);
    const g: f64.GemmShape = { M, N, K, transA: false, transB: true, alpha: 0.5, beta };
    return {
      inputs: {
        a: { values: random.normals(M * K), dims: [M, K] },
        w: { values: random.normals(N * K), dims: [N, K] },
        c: { values: random.normals(M * N), dims: [M, N] },
      },
      reference: ({ a, w, c }) => ({ out: f64.gemm(g, a!, w!, c!) }),
      forward(bench, { a, w, c }) {
        const panels = bench.own(bench.native.packWeight(w!));
        bench.native.gemmPacked(c!, a!, panels, g.alpha, beta);
        return { out: c! };
      },
    };
  },
};

interface LossSizes {
  rows: number[];
  channels: number[];
  vocabulary: number[];
  probes: number;
}

export const crossEntropy = (name: string, sizes: LossSizes): OpCase => ({
  name: `linearCrossEntropy, ${name}`,
  covers: ['linearCrossEntropy'],
  why: 'log-sum-exp over V ≤ 8,291 in f32; the backward multiplies softmax − onehot (bf16 once in the bf16 kernel)',
  make(random) {
    const [N, C, V] = [random.pick(sizes.rows), random.pick(sizes.channels), random.pick(sizes.vocabulary)];
    const targets = Float64Array.from({ length: N }, () => random.integer(0, V - 1));
    const scale = 1 / 37;
    return {
      inputs: {
        x: { values: random.normals(N * C), dims: [N, C], grad: true },
        w: { values: random.normals(V * C, 1 / Math.sqrt(C)), dims: [V, C], grad: true },
        targets: { values: targets, dims: [N], dtype: 'i32' },
      },
      reference: ({ x, w }) => ({ ...f64.linearCrossEntropy(x!, w!, targets, C) }),
      through: ['losses'],
      upstream: scale,
      probes: sizes.probes,
      forward(bench, { x, w, targets: index }) {
        const [losses, correct] = [bench.empty([N], 'f32'), bench.empty([N], 'i32')];
        bench.native.linearCrossEntropy(losses, correct, null, null, x!, w!, index!, null, scale);
        return { losses, correct };
      },
      backward(bench, { x, w, targets: index }) {
        const [losses, correct] = [bench.empty([N], 'f32'), bench.empty([N], 'i32')];
        const dx = bench.empty([N, C]);
        const dw = bench.accumulator([V, C]);
        bench.native.linearCrossEntropy(losses, correct, dx, dw, x!, w!, index!, null, scale);
        return { x: dx, w: dw };
      },
    };
  },
});

/** Rows weighed in the gradient alone: the loss stays, g_i = (softmax − onehot)·gradScale·rowScale_i. */
const weightedCrossEntropy: OpCase = {
  name: 'linearCrossEntropy, rows weighed',
  covers: ['linearCrossEntropy'],
  why: 'as unweighed: one product more per element of the gradient',
  make(random) {
    const [N, C, V] = [random.integer(2, 33), random.pick(SMALL.channels), random.pick(SMALL.vocabulary)];
    const weights = Float64Array.from(random.normals(N), Math.fround);
    weights[0] = 0;
    const targets = Float64Array.from({ length: N }, () => random.integer(0, V - 1));
    return {
      inputs: {
        x: { values: random.normals(N * C), dims: [N, C], grad: true },
        w: { values: random.normals(V * C, 1 / Math.sqrt(C)), dims: [V, C], grad: true },
        targets: { values: targets, dims: [N], dtype: 'i32' },
        weights: { values: weights, dims: [N], dtype: 'f32' },
      },
      reference: ({ x, w }) => ({
        weighted: f64.linearCrossEntropy(x!, w!, targets, C).losses.map((loss, i) => loss * weights[i]!),
      }),
      through: ['weighted'],
      upstream: 1 / 37,
      probes: SMALL.probes,
      forward(bench, { x, w, targets: index, weights: scale }) {
        const [losses, correct] = [bench.empty([N], 'f32'), bench.empty([N], 'i32')];
        bench.native.linearCrossEntropy(losses, correct, null, null, x!, w!, index!, scale!, 1 / 37);
        // the losses come unweighed
        return {
          weighted: bench.upload(
            bench.read(losses).map((loss, i) => loss * weights[i]!),
            [N],
            'f32',
          ),
        };
      },
      backward(bench, { x, w, targets: index, weights: scale }) {
        const [losses, correct] = [bench.empty([N], 'f32'), bench.empty([N], 'i32')];
        const dx = bench.empty([N, C]);
        const dw = bench.accumulator([V, C]);
        bench.native.linearCrossEntropy(losses, correct, dx, dw, x!, w!, index!, scale!, 1 / 37);
        return { x: dx, w: dw };
      },
    };
  },
};

// logits of deviation 1: a loss near 0 would be the difference of two equal numbers
const SMALL = { rows: [1, 3, 17, 33], channels: [7, 33, 64], vocabulary: [3, 97, 320], probes: 40 };
// more than the rows of w that the backward takes at a time
const WIDE = { rows: [5], channels: [18], vocabulary: [8291], probes: 6 };
const MANY = { rows: [290], channels: [18], vocabulary: [320], probes: 10 };

const TRANSPOSITIONS = [
  [false, false],
  [false, true],
  [true, false],
  [true, true],
] as const;

export const LINEAR_CASES: OpCase[] = [
  ...TRANSPOSITIONS.flatMap(([transA, transB]) => MIXES.map((mix) => gemmCase(transA, transB, mix))),
  ...TRANSPOSITIONS.map(([transA, transB]) => largeGemmCase(transA, transB)),
  linear,
  packed,
  crossEntropy('few rows', SMALL),
  crossEntropy('many rows', MANY),
  crossEntropy('a large vocabulary', WIDE),
  weightedCrossEntropy,
];
