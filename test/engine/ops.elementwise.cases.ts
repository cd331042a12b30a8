// Rows of the op table that work element by element or row by row: no reduction over a matrix product.
import * as f64 from '../helpers/float64.ts';
import { roundBf16 } from '../helpers/tolerance.ts';
import { AWKWARD, matrixDims, type OpCase } from './ops.table.ts';

const ONE_ROUNDING = 'each element is a few f32 operations; bf16 adds one rounding on the way out';

const add: OpCase = {
  name: 'add',
  covers: ['add'],
  why: ONE_ROUNDING,
  make(random) {
    const dims = matrixDims(random);
    const n = dims[0] * dims[1];
    return {
      inputs: { a: { values: random.normals(n), dims }, b: { values: random.normals(n), dims } },
      reference: ({ a, b }) => ({ out: a!.map((value, i) => value + b![i]!) }),
      forward(bench, { a, b }) {
        const out = bench.empty(dims);
        bench.native.add(out, a!, b!);
        return { out };
      },
    };
  },
};

const inPlace: OpCase = {
  name: 'scale, then y += alpha·x',
  covers: ['scale', 'axpy'],
  why: `${ONE_ROUNDING} (here two)`,
  make(random) {
    const dims = [...matrixDims(random), random.integer(1, 3)];
    const n = dims[0]! * dims[1]! * dims[2]!;
    const [factor, alpha] = [-0.75, 1.5];
    return {
      inputs: { x: { values: random.normals(n), dims }, y: { values: random.normals(n), dims } },
      reference: ({ x, y }) => ({ y: y!.map((value, i) => factor * value + alpha * x![i]!) }),
      forward(bench, { x, y }) {
        bench.native.scale(y!, factor);
        bench.native.axpy(y!, alpha, x!);
        return { y: y! };
      },
    };
  },
};

const casts: OpCase = {
  name: 'cast there and back, copy, fill',
  covers: ['cast', 'copy', 'fill'],
  why: 'rounding to nearest even and copying move bits only, so the bf16 values must come back exactly',
  tolerance: { f32: 0, bf16: 0 },
  make(random) {
    const dims = matrixDims(random);
    const n = dims[0] * dims[1];
    return {
      inputs: { x: { values: random.normals(n), dims, dtype: 'f32' } },
      reference: ({ x }) => ({
        rounded: roundBf16(x!),
        copied: x!,
        filled: new Float64Array(n).fill(-1.25),
      }),
      forward(bench, { x }) {
        const low = bench.empty(dims, 'bf16');
        const rounded = bench.empty(dims, 'f32');
        const copied = bench.empty(dims, 'f32');
        const filled = bench.empty(dims);
        bench.native.cast(low, x!);
        bench.native.cast(rounded, low);
        bench.native.copy(copied, x!);
        bench.native.fill(filled, -1.25);
        return { rounded, copied, filled };
      },
    };
  },
};

const bias: OpCase = {
  name: 'addBias',
  covers: ['addBias', 'biasBackward'],
  why: 'forward as add; db sums up to 129 rows in f32',
  make(random) {
    const [T, C] = [random.pick(AWKWARD), random.pick(AWKWARD)];
    return {
      inputs: {
        x: { values: random.normals(T * C), dims: [T, C] },
        b: { values: random.normals(C), dims: [C], grad: true },
      },
      reference: ({ x, b }) => ({ y: x!.map((value, i) => value + b![i % C]!) }),
      through: ['y'],
      forward(bench, { x, b }) {
        bench.native.addBias(x!, b!);
        return { y: x! };
      },
      backward(bench, _x, _y, { y: dy }) {
        const db = bench.accumulator([C]);
        bench.native.biasBackward(db, dy!);
        return { b: db };
      },
    };
  },
};

const swiglu: OpCase = {
  name: 'swiglu',
  covers: ['swigluForward', 'swigluBackward'],
  why: 'one exponential of about 1e-7 relative error per element',
  make(random) {
    const dims = matrixDims(random);
    const n = dims[0] * dims[1];
    return {
      // deviation 4 reaches the flat ends of the sigmoid
      inputs: {
        gate: { values: random.normals(n, 4), dims, grad: true },
        up: { values: random.normals(n), dims, grad: true },
      },
      reference: ({ gate, up }) => ({ y: f64.swiglu(gate!, up!) }),
      through: ['y'],
      forward(bench, { gate, up }) {
        const y = bench.empty(dims);
        bench.native.swigluForward(y, gate!, up!);
        return { y };
      },
      backward(bench, { gate, up }, _y, { y: dy }) {
        const [dgate, dup] = [bench.empty(dims), bench.empty(dims)];
        bench.native.swigluBackward(dgate, dup, dy!, gate!, up!);
        return { gate: dgate, up: dup };
      },
    };
  },
};

const embedding: OpCase = {
  name: 'embedding',
  covers: ['embeddingForward', 'embeddingBackward'],
  why: 'the forward copies rows; repeated ids make the backward a short sum',
  tolerance: { f32: 0, bf16: 0 },
  make(random) {
    const [T, C, V] = [random.pick(AWKWARD), random.pick(AWKWARD), random.integer(2, 40)];
    const ids = Float64Array.from({ length: T }, () => random.integer(0, V - 1));
    return {
      inputs: {
        w: { values: random.normals(V * C), dims: [V, C], grad: true },
        ids: { values: ids, dims: [T], dtype: 'i32' },
      },
      reference: ({ w }) => ({ out: f64.gatherRows(w!, ids, C) }),
      through: ['out'],
      forward(bench, { w, ids }) {
        const out = bench.empty([T, C]);
        bench.native.embeddingForward(out, w!, ids!);
        return { out };
      },
      backward(bench, { ids }, _y, { out: dout }) {
        const dw = bench.accumulator([V, C]);
        bench.native.embeddingBackward(dw, dout!, ids!);
        return { w: dw };
      },
    };
  },
};

const gather: OpCase = {
  name: 'gatherRows, scatterAddRows',
  covers: ['gatherRows', 'scatterAddRows'],
  why: 'rows are copied, and each is added to at most once',
  tolerance: { f32: 0, bf16: 0 },
  make(random) {
    const [T, C] = [random.integer(3, 60), random.pick(AWKWARD)];
    const rows = Float64Array.from(random.permutation(T).slice(0, random.integer(1, T)));
    return {
      inputs: {
        x: { values: random.normals(T * C), dims: [T, C], grad: true },
        rows: { values: rows, dims: [rows.length], dtype: 'i32' },
      },
      reference: ({ x }) => ({ out: f64.gatherRows(x!, rows, C) }),
      through: ['out'],
      forward(bench, { x, rows: index }) {
        const out = bench.empty([rows.length, C]);
        bench.native.gatherRows(out, x!, index!);
        return { out };
      },
      backward(bench, { rows: index }, _y, { out: dout }) {
        const dx = bench.accumulator([T, C], bench.type);
        bench.native.scatterAddRows(dx, dout!, index!);
        return { x: dx };
      },
    };
  },
};

const adamw: OpCase = {
  name: 'adamwStep',
  covers: ['adamwStep'],
  why: 'about ten f32 operations per element; the learning rate is large so that the update is not lost in p',
  types: ['f32'],
  make(random) {
    // Not one element alone: where its two terms of m cancel, a relative norm measures the cancellation.
    const n = random.pick([5, 33, 1000, 100_003]);
    const [dims, step] = [[n], random.integer(1, 50)];
    const o = { lr: 0.05, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.1, step, gradScale: 0.37 };
    return {
      inputs: {
        p: { values: random.normals(n, 0.1), dims },
        m: { values: random.normals(n, 0.1), dims },
        v: { values: random.normals(n, 0.1).map((x) => Math.fround(x * x)), dims },
        g: { values: random.normals(n), dims },
      },
      reference({ p, m, v, g }) {
        const next = f64.adamw(o, p!, m!, v!, g!);
        return { ...next, update: next.p.map((value, i) => value - p![i]!) };
      },
      forward(bench, { p, m, v, g }) {
        const update = bench.empty(dims);
        bench.native.copy(update, p!);
        bench.native.adamwStep(
          p!,
          m!,
          v!,
          g!,
          o.lr,
          o.beta1,
          o.beta2,
          o.eps,
          o.weightDecay,
          step,
          o.gradScale,
        );
        bench.native.scale(update, -1);
        bench.native.axpy(update, 1, p!);
        return { p: p!, m: m!, v: v!, update };
      },
    };
  },
};

export const ELEMENTWISE_CASES = [add, inPlace, casts, bias, swiglu, embedding, gather, adamw];
