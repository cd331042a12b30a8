// Runs the op table on every device of this machine (on a CPU: every instruction set it has; CUDA where it can be used,
// else one line says why not): values in f32 and bf16 against float64, native gradients against central differences of
// the float64 forward, equal bytes for any number of threads and from run to run. Random ops and reductions to a number
// have their own tests.
import { afterAll, describe, expect, it } from 'vitest';
import { loadNative, type NativeDevice } from '../../native/index.ts';
import { expectClose, reportFigures } from '../helpers/expect-close.ts';
import { RUN_SEED } from '../helpers/tolerance.ts';
import { NOT_OPS } from '../native/not-ops.ts';
import { cudaDevice } from './devices.ts';
import { OP_CASES, PROVEN_APART } from './ops.cases.ts';
import { MIXED_CASES } from './ops.mixed.cases.ts';
import { limits, type Prepared, prepare, run } from './ops.runner.ts';
import { Bench } from './ops.table.ts';

interface Target {
  name: string;
  device: NativeDevice;
  isa: string;
}

const native = loadNative();
const { isa: standard, isas, threads: standardThreads } = native.info();
const targets: Target[] = isas.map((isa) => ({ name: `cpu ${isa}`, device: 'cpu', isa }));
if (cudaDevice.available) targets.push({ name: `cuda ${cudaDevice.name}`, device: 'cuda', isa: standard });

reportFigures();
afterAll(() => native.configure({ isa: standard, threads: standardThreads }));

const onCpu = (each: { device: NativeDevice }) => each.device === 'cpu';
const rows = [
  ...OP_CASES.map((row) => ({ row, wanted: () => true })),
  ...MIXED_CASES.map((row) => ({ row, wanted: onCpu })),
];

for (const { row, wanted } of rows) {
  for (const type of row.types ?? (['f32', 'bf16'] as const)) {
    const shared: { [device in NativeDevice]?: Prepared } = {};
    const prepared = (device: NativeDevice) => (shared[device] ??= prepare(row, type, device));

    describe(`${row.name}, ${type}`, () => {
      for (const target of targets.filter(wanted)) {
        it(`is right on ${target.name}`, () => {
          const what = (part: string) => `${row.name} ${part} (LATHE_TEST_SEED=${RUN_SEED})`;
          const { expected, gradients } = prepared(target.device);
          native.configure({ isa: target.isa });
          const bench = new Bench(native, type, target.device);
          const limit = limits(row, type, target.isa);
          try {
            const got = run(bench, prepared(target.device));
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
              const bound = limit.gradients[name] ?? limit.gradient;
              const kind = `${row.covers[0]} ${type} gradients, bound ${bound}`;
              expectClose(kind, what(`gradient of ${name}`), ours, values, bound);
            }
          } finally {
            bench.close();
          }
        });
      }

      const settings = [
        { name: 'with one thread and with three', device: 'cpu' as const, threads: [1, 3, 3] },
        ...(cudaDevice.available
          ? [{ name: 'again on cuda', device: 'cuda' as const, threads: [1, 1, 1] }]
          : []),
      ];
      it.each(settings.filter(wanted))('gives the same bytes $name', ({ device, threads: counts }) => {
        native.configure({ isa: standard });
        const results = counts.map((threads) => {
          native.configure({ threads });
          const bench = new Bench(native, type, device);
          const result = run(bench, prepared(device));
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
    const ops = Object.keys(native).filter((name) => !NOT_OPS.includes(name));
    const proven = new Set([...OP_CASES.flatMap((row) => row.covers), ...PROVEN_APART]);
    expect([...proven].sort()).toEqual(ops.sort());
  });
});
