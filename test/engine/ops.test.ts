// Runs the op table on every device of this machine (on a CPU: every instruction set it has): values in f32 and
// bf16 against float64, native gradients against central differences of the float64 forward, equal bytes for any
// number of threads. Random ops and reductions to a number have their own tests below.
import { afterAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { finiteDifference } from '../helpers/float64.ts';
import { expectClose, Random, RUN_SEED, reportFigures, roundBf16, TOLERANCE } from '../helpers/tolerance.ts';
import { NOT_OPS, OP_CASES, PROVEN_APART } from './ops.cases.ts';
import { Bench, type FloatType, type Handles, type OpCase, type Problem, type Values } from './ops.table.ts';

/** Device kinds to prove; a kind that this machine lacks is left out by the check below. */
const DEVICES = ['cpu'] as const;

const devices = DEVICES.map((kind) => openDevice({ kind }));
const targets = devices.flatMap((device) => {
  const { isa: standard, isas } = device.native.info();
  return isas.map((isa: string) => ({ name: `${device.kind} ${isa}`, isa, standard, native: device.native }));
});
const standardThreads = devices[0]!.native.info().threads;

reportFigures();
afterAll(() => {
  for (const { native, standard } of targets) native.configure({ isa: standard, threads: standardThreads });
});

interface Prepared {
  problem: Problem;
  x: Values;
  expected: Values;
  upstream: Values;
  /** Probed elements and ∂L/∂x there, by input. */
  gradients: Record<string, { elements: number[]; values: Float64Array }>;
}

/** Draws a row's problem, rounds its inputs to the type and works out the float64 answers. */
function prepare(row: OpCase, type: FloatType): Prepared {
  const random = new Random(RUN_SEED, row.name);
  const problem = row.make(random);
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
    const elements = random.permutation(x[name]!.length).slice(0, problem.probes ?? 128);
    gradients[name] = { elements, values: finiteDifference(scalar, x[name]!, elements) };
  }
  return { problem, x, expected, upstream, gradients };
}

function run(bench: Bench, { problem, x, upstream }: Prepared) {
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

function limits(row: OpCase, type: FloatType) {
  const t = row.tolerance ?? {};
  return type === 'f32'
    ? { value: t.f32 ?? DEFAULTS.f32.value, gradient: t.gradientF32 ?? DEFAULTS.f32.gradient }
    : { value: t.bf16 ?? DEFAULTS.bf16.value, gradient: t.gradientBf16 ?? DEFAULTS.bf16.gradient };
}

for (const row of OP_CASES) {
  for (const type of row.types ?? (['f32', 'bf16'] as const)) {
    let shared: Prepared | undefined;
    const prepared = () => (shared ??= prepare(row, type));

    describe(`${row.name}, ${type}`, () => {
      for (const target of targets) {
        it(`is right on ${target.name}`, () => {
          const what = (part: string) => `${row.name} ${part} (LATHE_TEST_SEED=${RUN_SEED})`;
          const { expected, gradients } = prepared();
          target.native.configure({ isa: target.isa });
          const bench = new Bench(target.native, type);
          const limit = limits(row, type);
          try {
            const got = run(bench, prepared());
            for (const [name, values] of Object.entries(expected)) {
              expectClose(
                `${row.covers[0]} ${type} values, bound ${limit.value}`,
                what(name),
                got.outputs[name]!,
                values,
                limit.value,
              );
            }
            expect(Object.keys(got.gradients).sort()).toEqual(Object.keys(gradients).sort());
            for (const [name, { elements, values }] of Object.entries(gradients)) {
              const ours = elements.map((i) => got.gradients[name]![i]!);
              const kind = `${row.covers[0]} ${type} gradients, bound ${limit.gradient}`;
              expectClose(kind, what(`gradient of ${name}`), ours, values, limit.gradient);
            }
          } finally {
            bench.close();
          }
        });
      }

      it('gives the same bytes with one thread and with three', () => {
        const { native, standard } = targets[0]!;
        native.configure({ isa: standard });
        const results = [1, 3, 3].map((threads) => {
          native.configure({ threads });
          const bench = new Bench(native, type);
          const result = run(bench, prepared());
          bench.close();
          return result;
        });
        native.configure({ threads: standardThreads });
        for (const part of ['outputs', 'gradients'] as const) {
          for (const [name, values] of Object.entries(results[0]![part])) {
            const bytes = Buffer.from(values.buffer);
            const same = results.map((result) => bytes.equals(Buffer.from(result[part][name]!.buffer)));
            expect(same, `${name} (LATHE_TEST_SEED=${RUN_SEED})`).toEqual([true, true, true]);
          }
        }
      });
    });
  }
}

describe('the op table', () => {
  it('has a row for every native op', () => {
    const ops = Object.keys(devices[0]!.native).filter((name) => !NOT_OPS.includes(name));
    const proven = new Set([...OP_CASES.flatMap((row) => row.covers), ...PROVEN_APART]);
    expect([...proven].sort()).toEqual(ops.sort());
  });
});
