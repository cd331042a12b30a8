/**
 * `npm run gpu:check [-- --device cpu]`, `./lathe gpu-check` in the bundle: whether this device computes what the CPU
 * specification says, repeats itself byte for byte, survives a kill, and how fast it is. Prints a table last and writes
 * bench/results/gpu-<device>-<date>.json. Exit code 0 all judged lines hold, 1 some do not, 3 no CUDA device.
 */
import path from 'node:path';
import { parseArgs } from 'node:util';
import { PROJECT_ROOT } from '../../src/config.ts';
import { type Device, openDevice } from '../../workers/engine/device.ts';
import { machine } from '../options.ts';
import { benchmarkDecoding, benchmarkTraining } from './benchmarks.ts';
import { measureCeilings } from './device-report.ts';
import { checkEngineParity } from './engine-parity.ts';
import { checkOps } from './op-suite.ts';
import { type Context, Report } from './report.ts';
import { checkServing } from './serving-parity.ts';
import { checkTrainingRun } from './training-run.ts';
import { benchmarkTutorial } from './tutorial.ts';

/** Benchmarks begin only before this, so that the whole ends within nine minutes. */
const BENCHMARK_SECONDS = 400;
const NO_DEVICE = 3;

const { values } = parseArgs({
  options: { device: { type: 'string', default: 'cuda' }, out: { type: 'string' } },
});

function open(kind: string): Device | null {
  if (kind !== 'cuda' && kind !== 'cpu') throw new Error(`--device ${kind}: known are cuda and cpu`);
  try {
    return openDevice({ kind });
  } catch (error) {
    if (kind === 'cpu') throw error;
    const { message } = error as Error;
    console.log(/^no CUDA device/i.test(message) ? message : `no CUDA device: ${message}`);
    return null;
  }
}

async function main(): Promise<number> {
  const device = open(values.device);
  if (device === null) return NO_DEVICE;
  const report = new Report();
  const context: Context = { report, deadline: performance.now() + BENCHMARK_SECONDS * 1000 };
  const date = new Date().toISOString().slice(0, 10);
  const { cpu, cores } = machine();
  Object.assign(report.keys, {
    device: device.name,
    date,
    host_cpu: cpu,
    host_cores: cores,
    node: process.version,
  });
  report.measure('device', device.name);
  const ceilings = measureCeilings(device, context);
  checkOps(device, context);
  await checkEngineParity(device, context);
  checkServing(device, context);
  await checkTrainingRun({ kind: device.kind }, context);
  benchmarkTraining(device, ceilings, context);
  await benchmarkDecoding(device, ceilings, context);
  await benchmarkTutorial(device, context);
  report.keys.seconds = Math.round(performance.now() / 1000);

  const slug = device.name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '');
  const file = values.out ?? path.join(PROJECT_ROOT, 'bench', 'results', `gpu-${slug}-${date}.json`);
  report.save(file);
  console.log(`${report.table()}\n\n${report.passed} hold, ${report.failed} do not; written to ${file}`);
  return report.failed === 0 ? 0 : 1;
}

process.exitCode = await main();
process.exit();
