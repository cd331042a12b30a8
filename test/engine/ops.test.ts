// Runs the op table on every device of this machine (on a CPU: every instruction set it has): values in f32 and
// bf16 against float64, native gradients against central differences of the float64 forward, equal bytes for any
// number of threads. Random ops and reductions to a number have their own tests below.
import { afterAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../workers/engine/device.ts';
import { expectClose, reportFigures } from '../helpers/expect-close.ts';
import { RUN_SEED } from '../helpers/tolerance.ts';
import { NOT_OPS, OP_CASES, PROVEN_APART } from './ops.cases.ts';
import { limits, type Prepared, prepare, run } from './ops.runner.ts';
import { Bench } from './ops.table.ts';

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
