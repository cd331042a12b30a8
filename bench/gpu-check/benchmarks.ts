/**
 * The speeds that users of a GPU ask for: LoRA training at full length, and decoding with one and with many adapters.
 * Each beside the floor that this run's own ceilings give. On a CPU the same code runs on the shipped model's shape.
 */
import type { Device } from '../../workers/engine/device.ts';
import { decodeBench } from '../decoding.ts';
import { median, round, seconds } from '../options.ts';
import { matmulParameters, shape } from '../shapes.ts';
import { loraBench, loraFlopsPerToken, pipelined, randomBatch, type StepFigures } from '../training.ts';
import type { Ceilings } from './device-report.ts';
import type { Context } from './report.ts';

interface TrainingCase {
  key: string;
  shape: string;
  r: number;
  length: number;
  sequences: number;
  steps: number;
  /** Tokens a second to reach; null: measured only. */
  bar: number | null;
}

const TRAINING: Record<Device['kind'], TrainingCase[]> = {
  cuda: [
    { key: 'lora_4b', shape: 'qwen3-4b', r: 16, length: 2048, sequences: 4, steps: 5, bar: 26_000 },
    { key: 'lora_7b', shape: 'qwen2.5-7b', r: 16, length: 4096, sequences: 2, steps: 4, bar: 16_000 },
  ],
  cpu: [{ key: 'lora_tiny', shape: 'lathe-tiny', r: 8, length: 128, sequences: 16, steps: 3, bar: null }],
};

interface DecodeCase {
  key: string;
  shape: string;
  context: number;
  streams: number;
  steps: number;
}

const DECODING: Record<Device['kind'], DecodeCase> = {
  cuda: { key: 'decode_4b', shape: 'qwen3-4b', context: 512, streams: 32, steps: 60 },
  cpu: { key: 'decode_tiny', shape: 'lathe-tiny', context: 128, streams: 8, steps: 15 },
};

const R_SERVING = 8;
const UNTIMED_STEPS = 2;
const LOADS = 5;

export function benchmarkTraining(device: Device, ceilings: Ceilings, context: Context): void {
  const { report, deadline } = context;
  for (const c of TRAINING[device.kind]) {
    const name = `LoRA r=${c.r}, ${c.shape}, S=${c.length} packed, bf16`;
    if (performance.now() > deadline) {
      report.measure(name, 'left out: no time was left');
      continue;
    }
    try {
      benchmarkShape(device, ceilings, c, name, context);
    } catch (error) {
      // The next shape may fit where this one did not.
      report.judge(name, (error as Error).message.split('\n')[0]!, 'runs to its end', false);
      device.trim();
    }
  }
}

function benchmarkShape(
  device: Device,
  ceilings: Ceilings,
  { key, ...c }: TrainingCase,
  name: string,
  { report, withheld }: Context,
): void {
  const config = shape(c.shape);
  const bench = loraBench(device, config, 'bf16', c.r);
  const batch = randomBatch(config.vocabSize, Array<number>(c.sequences).fill(c.length), 1);
  let last: StepFigures;
  let time: number;
  try {
    const batches = () => [batch];
    pipelined(bench, 0, UNTIMED_STEPS, batches);
    const blocks = [0, 1, 2].map((block) =>
      pipelined(bench, UNTIMED_STEPS + block * c.steps, c.steps, batches),
    );
    time = median(blocks.map(({ secondsPerStep }) => secondsPerStep));
    last = blocks[2]!.figures.at(-1)!;
  } finally {
    bench.dispose();
  }
  const speed = (c.length * c.sequences) / time;
  const floor = ceilings.flops / loraFlopsPerToken(config, c.r, 1, c.length);
  report.keys[`${key}_tokens_per_second`] = round(speed, 4);
  report.ratio(`${key}_ratio_to_floor`, round(speed / floor), withheld);
  report.keys[`${key}_peak_gib`] = round(device.memory().peak / 2 ** 30, 4);
  report.keys[`${key}_loss`] = round(last.loss, 5);
  report.keys[`${key}_grad_norm`] = round(last.gradNorm, 5);
  const ratio = withheld === null ? ` ${round(speed / floor)} of the floor,` : '';
  const figure = `${Math.round(speed)} tokens/s,${ratio} loss ${last.loss.toFixed(3)}, gradient norm ${round(last.gradNorm)}`;
  if (c.bar === null) report.measure(name, figure);
  else report.judge(name, figure, `≥ ${c.bar}`, speed >= c.bar && last.gradNorm > 0);
}

export async function benchmarkDecoding(device: Device, ceilings: Ceilings, context: Context): Promise<void> {
  const { report, deadline } = context;
  const { key, ...c } = DECODING[device.kind];
  if (performance.now() > deadline) {
    report.measure(`decode, ${c.shape}`, 'left out: no time was left');
    return;
  }
  const config = shape(c.shape);
  const bench = await decodeBench(device, config, {
    dtype: 'bf16',
    streams: c.streams,
    positions: c.context + c.steps + 2,
    r: R_SERVING,
  });
  const measure = (streams: number, withAdapters: boolean) => {
    bench.decode(streams, c.context, withAdapters);
    return median(
      Array.from({ length: c.steps }, (_, i) =>
        seconds(() => bench.decode(streams, c.context + i, withAdapters)),
      ),
    );
  };
  const single = measure(1, false);
  const [base, adapted] = [measure(c.streams, false), measure(c.streams, true)];
  const fresh = median(Array.from({ length: LOADS }, () => seconds(() => bench.loadAndDecode(c.context))));
  bench.dispose();
  const { trunk, head } = matmulParameters(config, R_SERVING);
  // The ceiling counts what a copy reads and writes; decoding reads every weight once.
  const floor = (2 * (trunk + head)) / ceilings.bytes;
  report.keys[`${key}_tokens_per_second`] = round(1 / single, 4);
  report.keys[`${key}_ratio_to_floor`] = round(single / floor);
  report.keys[`${key}_batch_tokens_per_second`] = round(c.streams / base, 4);
  report.keys[`${key}_adapters_to_base_time`] = round(adapted / base);
  report.keys[`${key}_adapter_to_first_token_ms`] = round(1000 * fresh);
  const judged = device.kind === 'cuda';
  const one = `${round(1 / single, 4)} tokens/s, ${round(single / floor)} × the time of reading the weights`;
  const many = `${round(adapted / base)} × the time of the base (${round(c.streams / base, 4)} tokens/s)`;
  const upload = `${round(1000 * fresh)} ms`;
  const names = [
    `decode, ${c.shape}, one stream`,
    `${c.streams} streams on ${c.streams} adapters`,
    'adapter on disk to first token',
  ] as const;
  if (judged) {
    report.judge(names[0], one, '≤ 1.25', single / floor <= 1.25);
    report.judge(names[1], many, '≤ 1.2', adapted / base <= 1.2);
    report.judge(names[2], upload, '≤ 200 ms', fresh <= 0.2);
  } else {
    report.measure(names[0], one);
    report.measure(names[1], many);
    report.measure(names[2], upload);
  }
}
