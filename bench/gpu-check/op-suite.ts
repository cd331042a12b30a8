/**
 * The op table on the device: values and gradients against float64, and equal bytes from two runs. The rows, their
 * references and their bounds are those of the test suite.
 */
import { OP_CASES } from '../../test/engine/ops.cases.ts';
import { limits, type Prepared, prepare, run } from '../../test/engine/ops.runner.ts';
import { Bench, type FloatType, type OpCase } from '../../test/engine/ops.table.ts';
import { RUN_SEED, relativeError } from '../../test/helpers/tolerance.ts';
import type { Device } from '../../workers/engine/device.ts';
import { type Context, scientific } from './report.ts';

interface Failure {
  row: string;
  reason: string;
}

export function checkOps(device: Device, { report }: Context): void {
  const failures: Failure[] = [];
  const worst = { f32: 0, bf16: 0 };
  let rows = 0;
  for (const row of OP_CASES) {
    for (const type of row.types ?? (['f32', 'bf16'] as const)) {
      rows++;
      try {
        proveDevice(device);
        worst[type] = Math.max(worst[type], checkRow(device, row, type));
      } catch (error) {
        failures.push({ row: `${row.name}, ${type}`, reason: (error as Error).message });
      }
    }
  }
  for (const { row, reason } of failures) process.stderr.write(`   ${row}: ${reason}\n`);
  report.keys.op_rows = rows;
  report.keys.op_rows_failed = failures.length;
  report.keys.op_seed = RUN_SEED;
  const share = `worst share of its bound: f32 ${worst.f32.toFixed(2)}, bf16 ${worst.bf16.toFixed(2)}`;
  report.judge(
    'ops against float64, values and gradients, two runs equal',
    `${rows - failures.length} of ${rows} rows`,
    `all (seed ${RUN_SEED}; ${share})`,
    failures.length === 0,
  );
}

/** Runs rows without comparing anything, at most until performance.now() is `until`: for tools that watch the device. */
export function runOps(device: Device, until: number): { rows: number; of: number } {
  const all = OP_CASES.flatMap((row) =>
    (row.types ?? (['f32', 'bf16'] as const)).map((type) => ({ row, type })),
  );
  let rows = 0;
  for (const { row, type } of all) {
    if (performance.now() > until) break;
    proveDevice(device);
    once(device, prepare(row, type, device.kind), type);
    rows++;
  }
  return { rows, of: all.length };
}

/** The largest error of the row as a share of its bound. @throws when a bound is passed or two runs differ */
function checkRow(device: Device, row: OpCase, type: FloatType): number {
  const prepared = prepare(row, type, device.kind);
  const [first, second] = [once(device, prepared, type), once(device, prepared, type)];
  const limit = limits(row, type, device.native.info().isa);
  const shares: number[] = [];
  const compare = (what: string, ours: ArrayLike<number>, reference: ArrayLike<number>, bound: number) => {
    const error = relativeError(ours, reference);
    if (!(error <= bound)) throw new Error(`${what} is off by ${scientific(error)}, bound ${bound}`);
    if (bound > 0) shares.push(error / bound);
  };
  for (const [name, values] of Object.entries(prepared.expected)) {
    compare(name, first.outputs[name]!, values, limit.value);
  }
  for (const [name, { elements, values }] of Object.entries(prepared.gradients)) {
    const ours = elements.map((i) => first.gradients[name]![i]!);
    compare(`the gradient of ${name}`, ours, values, limit.gradient);
  }
  for (const part of ['outputs', 'gradients'] as const) {
    for (const [name, values] of Object.entries(first[part])) {
      if (!sameBytes(values, second[part][name]!)) throw new Error(`two runs give different ${name}`);
    }
  }
  return Math.max(0, ...shares);
}

/** The rows must run where they claim to: the bench's tensors take this device's memory. */
function proveDevice(device: Device): void {
  const before = device.memory().inUse;
  const bench = new Bench(device.native, 'f32', device.kind);
  bench.empty([1 << 20]);
  const grown = device.memory().inUse - before;
  bench.close();
  if (grown < 4 << 20) throw new Error(`the bench's tensors are not on ${device.name}`);
}

function once(device: Device, prepared: Prepared, type: FloatType) {
  const bench = new Bench(device.native, type, device.kind);
  try {
    return run(bench, prepared);
  } finally {
    bench.close();
  }
}

const sameBytes = (a: Float64Array, b: Float64Array) => Buffer.from(a.buffer).equals(Buffer.from(b.buffer));
