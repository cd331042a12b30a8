// Rows of the op table for the norms, with and without a residual, and for the normed or plain rotation of heads.
import * as f64 from '../helpers/float64.ts';
import type { Random } from '../helpers/tolerance.ts';
import { AWKWARD, type F64, type Handles, type OpCase, type Problem, type Values } from './ops.table.ts';

const EPS = 1e-6;
const WHY = 'one sum of squares and one root per row in f32, whatever the type of x';

/**
 * Widths of normed rows. From 5 up: the gradient is what remains of dy after taking off its part along x, and in one
 * or two dimensions that is (nearly) nothing but the rounding of two equal numbers.
 */
const WIDTHS = [5, 7, 16, 17, 31, 33, 48, 65, 100, 129, 1030] as const;

const rmsNorm: OpCase = {
  name: 'rmsNorm',
  covers: ['rmsNormForward', 'rmsNormBackward'],
  why: WHY,
  make(random) {
    const [T, C] = [random.pick(AWKWARD), random.pick(WIDTHS)];
    return {
      inputs: {
        x: { values: random.normals(T * C, 2), dims: [T, C], grad: true },
        w: { values: random.normals(C, 0.3, 1), dims: [C], grad: true },
      },
      reference: ({ x, w }) => ({ ...f64.rmsNorm(x!, w!, EPS) }),
      through: ['y'],
      forward(bench, { x, w }) {
        const [y, rstd] = [bench.empty([T, C]), bench.empty([T], 'f32')];
        bench.native.rmsNormForward(y, rstd, x!, w!, EPS);
        return { y, rstd };
      },
      backward(bench, { x, w }, { rstd }, { y: dy }) {
        const dx = bench.empty([T, C]);
        const dw = bench.accumulator([C]);
        bench.native.rmsNormBackward(dx, dw, dy!, x!, w!, rstd!, null);
        return { x: dx, w: dw };
      },
    };
  },
};

/** The gradient of the residual path is `dres`: L = dy·norm(x) + dres·x, and dw may be left out. */
const rmsNormResidual: OpCase = {
  name: 'rmsNorm backward with dres, frozen weight',
  covers: ['rmsNormBackward'],
  why: WHY,
  make(random) {
    const [T, C] = [random.pick(AWKWARD), random.pick(WIDTHS)];
    return {
      inputs: {
        x: { values: random.normals(T * C), dims: [T, C], grad: true },
        w: { values: random.normals(C, 0.3, 1), dims: [C] },
      },
      reference: ({ x, w }) => ({ y: f64.rmsNorm(x!, w!, EPS).y, z: x! }),
      through: ['y', 'z'],
      forward(bench, { x, w }) {
        const [y, rstd] = [bench.empty([T, C]), bench.empty([T], 'f32')];
        bench.native.rmsNormForward(y, rstd, x!, w!, EPS);
        return { y, rstd, z: x! };
      },
      backward(bench, { x, w }, { rstd }, { y: dy, z: dres }) {
        const dx = bench.empty([T, C]);
        bench.native.rmsNormBackward(dx, null, dy!, x!, w!, rstd!, dres!);
        return { x: dx };
      },
    };
  },
};

const addRmsNorm: OpCase = {
  name: 'addRmsNorm',
  covers: ['addRmsNormForward'],
  why: WHY,
  make(random) {
    const [T, C] = [random.pick(AWKWARD), random.pick(WIDTHS)];
    return {
      inputs: {
        x: { values: random.normals(T * C), dims: [T, C] },
        delta: { values: random.normals(T * C), dims: [T, C] },
        w: { values: random.normals(C, 0.3, 1), dims: [C] },
      },
      reference({ x, delta, w }) {
        const z = x!.map((value, i) => value + delta![i]!);
        return { z, ...f64.rmsNorm(z, w!, EPS) };
      },
      forward(bench, { x, delta, w }) {
        const [y, z, rstd] = [bench.empty([T, C]), bench.empty([T, C]), bench.empty([T], 'f32')];
        bench.native.addRmsNormForward(y, z, rstd, x!, delta!, w!, EPS);
        return { y, z, rstd };
      },
    };
  },
};

/** cos and sin of P positions at D/2 frequencies, rounded to f32 as the engine's tables are. */
function rotations(random: Random, P: number, half: number): { cos: F64; sin: F64 } {
  const angles = Float64Array.from({ length: P * half }, () => random.uniform() * 6.2832);
  return {
    cos: angles.map((a) => Math.fround(Math.cos(a))),
    sin: angles.map((a) => Math.fround(Math.sin(a))),
  };
}

function rope(normed: boolean, headDim: number): OpCase {
  return {
    name: `qkNormRope ${normed ? 'with norm' : 'rotation only'}, head size ${headDim}`,
    covers: ['qkNormRopeForward', 'qkNormRopeBackward'],
    why: `${normed ? `${WHY}; ` : ''}two products and one sum per element`,
    make(random): Problem {
      const [T, H, P] = [random.pick([1, 7, 33, 50]), random.pick([1, 2, 3]), random.integer(2, 40)];
      const half = headDim / 2;
      const dims = [T, H * headDim];
      const positions = Float64Array.from({ length: T }, () => random.integer(0, P - 1));
      const { cos, sin } = rotations(random, P, half);
      return {
        inputs: {
          x: { values: random.normals(T * H * headDim), dims, grad: true },
          ...(normed ? { w: { values: random.normals(headDim, 0.3, 1), dims: [headDim], grad: true } } : {}),
          cos: { values: cos, dims: [P, half], dtype: 'f32' },
          sin: { values: sin, dims: [P, half], dtype: 'f32' },
          positions: { values: positions, dims: [T], dtype: 'i32' },
        },
        reference({ x, w }): Values {
          const { y, rstd } = f64.qkNormRope(x!, w ?? null, cos, sin, positions, headDim, EPS);
          return rstd ? { y, rstd } : { y };
        },
        through: ['y'],
        forward(bench, { x, w, cos: c, sin: s, positions: p }): Handles {
          const y = bench.empty(dims);
          const rstd = normed ? bench.empty([T, H], 'f32') : null;
          bench.native.qkNormRopeForward(y, rstd, x!, w ?? null, c!, s!, p!, headDim, EPS);
          return rstd ? { y, rstd } : { y };
        },
        backward(bench, { x, w, cos: c, sin: s, positions: p }, { rstd }, { y: dy }): Handles {
          const dx = bench.empty(dims);
          const dw = normed ? bench.accumulator([headDim]) : null;
          bench.native.qkNormRopeBackward(dx, dw, dy!, x!, w ?? null, rstd ?? null, c!, s!, p!, headDim);
          return dw ? { x: dx, w: dw } : { x: dx };
        },
      };
    },
  };
}

export const NORM_CASES: OpCase[] = [
  rmsNorm,
  rmsNormResidual,
  addRmsNorm,
  rope(true, 128),
  rope(true, 20),
  rope(false, 64),
  rope(false, 14),
];
