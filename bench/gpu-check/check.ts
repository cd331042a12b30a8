/**
 * The device check itself, under main.ts' clock: whether this device computes what the CPU specification says, repeats
 * itself byte for byte, survives a kill, needs the memory that was foreseen, and how fast it is. Prints a table last and
 * writes bench/results/gpu-<device>-<date>.json after every section.
 */
import path from 'node:path';
import { parseArgs } from 'node:util';
import { PROJECT_ROOT } from '../../src/config.ts';
import { type Device, openDevice } from '../../workers/engine/device.ts';
import { machine } from '../options.ts';
import { benchmarkDecoding, benchmarkTraining } from './benchmarks.ts';
import { type Ceilings, measureCeilings } from './device-report.ts';
import { checkEngineParity } from './engine-parity.ts';
import { checkMemory } from './memory.ts';
import { checkOps } from './op-suite.ts';
import { checkRecorded } from './recorded.ts';
import { type Context, Report } from './report.ts';
import { checkSanitizer } from './sanitizer.ts';
import { checkServing } from './serving-parity.ts';
import { checkTrainingRun } from './training-run.ts';
import { benchmarkTutorial } from './tutorial.ts';

/** Benchmarks begin only before this; main.ts ends what takes longer than it should. */
const BENCHMARK_SECONDS = 400;
const NO_DEVICE = 3;
/** What a run on a GPU is read for; null until it has been measured. */
const FLAT_KEYS = [
  'blas',
  'ceiling_gemm_tflops',
  'ceiling_copy_gb_per_second',
  'memory_estimate_worst_difference',
  'small_model_graph_ratio',
  'lora_06b_graph_ratio',
  'lora_4b_tokens_per_second',
  'lora_4b_ratio_to_floor',
  'lora_7b_tokens_per_second',
  'lora_7b_ratio_to_floor',
  'decode_4b_tokens_per_second',
  'decode_4b_ratio_to_floor',
  'decode_4b_adapters_to_base_time',
  'decode_4b_adapter_to_first_token_ms',
  'tutorial_samples_per_second',
  'ratio_to_peft_tutorial',
  'ratio_to_peft_best',
] as const;

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
  const context: Context = { report, withheld: null, deadline: BENCHMARK_SECONDS * 1000 };
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
  const slug = device.name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '');
  const file = values.out ?? path.join(PROJECT_ROOT, 'bench', 'results', `gpu-${slug}-${date}.json`);
  process.send?.({ file });
  const info = device.native.cudaInfo();
  if (device.kind === 'cuda' && info.available) {
    for (const key of FLAT_KEYS) report.keys[key] = null;
    report.keys.blas = info.blas;
    const isLt = info.blas.startsWith('cuBLASLt');
    report.judge('library of large products', info.blas, 'cuBLASLt', isLt);
    // The ceiling would be the own kernels' too, and a peer would be compared with a fallback.
    if (!isLt) context.withheld = `cuBLASLt was not used: ${info.blas}`;
  }

  let ceilings: Ceilings = { flops: Number.NaN, bytes: Number.NaN };
  const sections: [name: string, run: () => void | Promise<void>][] = [
    [
      'ceilings',
      () => {
        ceilings = measureCeilings(device, context);
      },
    ],
    ['ops', () => checkOps(device, context)],
    ['engine', () => checkEngineParity(device, context)],
    ['serving', () => checkServing(device, context)],
    ['memory', () => checkMemory(device, context)],
    ['training run', () => checkTrainingRun({ kind: device.kind }, context)],
    ['recorded micro-batches', () => checkRecorded(device, context)],
    ['training speed', () => benchmarkTraining(device, ceilings, context)],
    ['decoding speed', () => benchmarkDecoding(device, ceilings, context)],
    ['tutorial', () => benchmarkTutorial(device, context)],
    ['sanitizer', () => checkSanitizer(device, context)],
  ];
  for (const [name, run] of sections) {
    try {
      await run();
    } catch (error) {
      // What the others find is worth as much: a section that breaks is one line that does not hold.
      report.judge(name, (error as Error).message.split('\n')[0]!, 'runs to its end', false);
      process.stderr.write(`${(error as Error).stack}\n`);
    }
    // Saved each time: a machine that is taken away leaves what was found so far.
    report.keys.seconds = Math.round(performance.now() / 1000);
    report.save(file);
  }
  console.log(report.summary(file));
  return report.failed === 0 ? 0 : 1;
}

process.exitCode = await main();
process.exit();
