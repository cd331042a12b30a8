// One row of the op table on one device: draws the problem, works out the float64 answers, runs the native op.
// Knows no test runner: the device check of the bundle uses it as well.
import type { NativeDevice } from '../../native/index.ts';
import { finiteDifference } from '../helpers/float64.ts';
import { Random, RUN_SEED, roundBf16, TOLERANCE } from '../helpers/tolerance.ts';
import type { Bench, FloatType, Handles, OpCase, Problem, Values } from './ops.table.ts';

export interface Prepared {
  problem: Problem;
  x: Values;
  expected: Values;
  upstream: Values;
  /** Probed elements and ∂L/∂x there, by input. */
  gradients: Record<string, { elements: number[]; values: Float64Array }>;
}

/** Draws a row's problem, rounds its inputs to the type and works out the float64 answers that `device` owes. */
export function prepare(row: OpCase, type: FloatType, device: NativeDevice): Prepared {
  const random = new Random(RUN_SEED, row.name);
  const problem = row.make(random, device);
  const round = (values: Float64Array) => (type === 'bf16' ? roundBf16(values) : values);
  const x = Object.fromEntries(
    Object.entries(problem.inputs).map(([name, { values, dtype = 'compute' }]) => [
      name,
      dtype === 'compute' ? round(values) : values,
    ]),
  );
  const expected = problem.reference(x);
  const upstream = Object.fromEntries(
    (problem.through ?? []).map((name) => {
      const size = expected[name]!.length;
      const fixed = problem.upstream;
      return [name, fixed === undefined ? round(random.normals(size)) : new Float64Array(size).fill(fixed)];
    }),
  );
  const scalar = () => {
    const y = problem.reference(x);
    return Object.entries(upstream).reduce(
      (sum, [name, dy]) => dy.reduce((s, g, i) => s + g * y[name]![i]!, sum),
      0,
    );
  };
  const gradients: Prepared['gradients'] = {};
  for (const [name, input] of Object.entries(problem.inputs)) {
    if (!input.grad) continue;
    const elements = random.permutation(x[name]!.length).slice(0, input.probes ?? problem.probes ?? 128);
    gradients[name] = { elements, values: finiteDifference(scalar, x[name]!, elements) };
  }
  return { problem, x, expected, upstream, gradients };
}

/** Uploads a problem, runs forward and backward on the bench's device, and reads everything back. */
export function run(bench: Bench, { problem, x, upstream }: Prepared) {
  const handles: Handles = {};
  for (const [name, { dims, dtype = 'compute' }] of Object.entries(problem.inputs)) {
    handles[name] = bench.upload(x[name]!, dims, dtype === 'compute' ? bench.type : dtype);
  }
  const y = problem.forward(bench, handles);
  const outputs = Object.fromEntries(Object.entries(y).map(([name, h]) => [name, bench.read(h)]));
  if (!problem.backward) return { outputs, gradients: {} as Values };
  const dy = Object.fromEntries(
    Object.entries(upstream).map(([name, values]) => [
      name,
      bench.upload(values, bench.native.tensorInfo(y[name]!).dims),
    ]),
  );
  const grads = problem.backward(bench, handles, y, dy);
  return {
    outputs,
    gradients: Object.fromEntries(Object.entries(grads).map(([name, h]) => [name, bench.readGradient(h)])),
  };
}

const DEFAULTS = {
  f32: { value: TOLERANCE.opF32, gradient: TOLERANCE.opGradient },
  bf16: { value: TOLERANCE.opBf16, gradient: TOLERANCE.opBf16 },
};

/** Bounds on the relative errors of values and gradients; `gradients` names the inputs that have one of their own on `isa`. */
export function limits(row: OpCase, type: FloatType, isa: string) {
  const t = row.tolerance ?? {};
  const gradients = isa === 'amx' ? (t.gradientsOnTiles ?? {}) : {};
  return type === 'f32'
    ? { value: t.f32 ?? DEFAULTS.f32.value, gradient: t.gradientF32 ?? DEFAULTS.f32.gradient, gradients }
    : { value: t.bf16 ?? DEFAULTS.bf16.value, gradient: t.gradientBf16 ?? DEFAULTS.bf16.gradient, gradients };
}
