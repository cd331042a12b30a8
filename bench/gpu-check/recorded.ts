/**
 * Training of small models with micro-batches recorded as graphs, beside the same ones op by op: padded alike they must
 * give the same losses and the same adapter to the bit; beside the batches as they are, the ratio of the times is told.
 */
import { createHash } from 'node:crypto';
import type { Device } from '../../workers/engine/device.ts';
import type { PackedBatch } from '../../workers/engine/models/index.ts';
import { median, round } from '../options.ts';
import { shape } from '../shapes.ts';
import { loraBench, pipelined, randomBatch, type Way } from '../training.ts';
import type { Context } from './report.ts';

interface Case {
  key: string;
  shape: string;
  /** Sequences of a micro-batch; their lengths vary around `length`. */
  sequences: number;
  length: number;
}

const CASES: Case[] = [
  { key: 'small_model', shape: 'lathe-tiny', sequences: 8, length: 60 },
  { key: 'lora_06b', shape: 'qwen3-0.6b', sequences: 16, length: 64 },
];
const R = 8;
/** Before these every shape has run, and been recorded where it is. */
const UNTIMED_STEPS = 12;
const STEPS = 10;
const BLOCKS = 3;
/** Different micro-batches, so that a replay always follows one of other numbers. */
const BATCHES = 5;

interface Run {
  losses: number[];
  adapter: string;
  secondsPerStep: number;
  /** Sizes recorded at the end. */
  sizes: number;
}

export function checkRecorded(device: Device, { report, deadline }: Context): void {
  if (!device.worksAhead) {
    report.measure(
      'training with recorded micro-batches',
      'not on this device: its trainings ask for ops one by one',
    );
    return;
  }
  for (const c of CASES) {
    const name = `LoRA r=${R}, ${c.shape}, ${c.sequences} sequences of about ${c.length} tokens`;
    if (performance.now() > deadline) {
      report.measure(name, 'left out: no time was left');
      continue;
    }
    const batches = Array.from({ length: BATCHES }, (_, k) =>
      randomBatch(
        shape(c.shape).vocabSize,
        Array.from({ length: c.sequences }, (_, s) => c.length - 6 + ((5 * k + 3 * s) % 13)),
        0.5,
      ),
    );
    const [recorded, padded, plain] = (['recorded', 'padded', 'plain'] as const).map((way) =>
      run(device, c, batches, way),
    ) as [Run, Run, Run];
    const same = recorded.adapter === padded.adapter && recorded.losses.join() === padded.losses.join();
    report.keys[`${c.key}_recorded_equal`] = same;
    report.judge(
      `${name}: ${recorded.sizes} sizes recorded, ${recorded.losses.length} losses and adapter`,
      `${recorded.losses.at(-1)!.toFixed(5)}, ${recorded.adapter.slice(0, 16)}`,
      `= ${padded.losses.at(-1)!.toFixed(5)}, ${padded.adapter.slice(0, 16)} op by op`,
      same && recorded.sizes > 0,
    );
    const ratio = plain.secondsPerStep / recorded.secondsPerStep;
    const tokens = batches.reduce((sum, { ids }) => sum + ids.length, 0) / BATCHES;
    report.keys[`${c.key}_graph_ratio`] = round(ratio);
    report.keys[`${c.key}_graph_tokens_per_second`] = round(tokens / recorded.secondsPerStep, 4);
    const [ours, theirs] = [recorded, plain].map(
      ({ secondsPerStep }) => `${round(1000 * secondsPerStep)} ms`,
    );
    report.judge(
      `${name}: step recorded, op by op`,
      `${ours}, ${theirs}: ${round(ratio)} times as fast`,
      '≥ 1',
      ratio >= 1,
    );
  }
}

function run(device: Device, c: Case, batches: readonly PackedBatch[], way: Way): Run {
  const tokensMax = Math.max(...batches.map(({ ids }) => ids.length));
  const bench = loraBench(device, shape(c.shape), 'bf16', R, { way, tokensMax });
  try {
    const batchesOf = (index: number) => [batches[index % BATCHES]!];
    const figures = pipelined(bench, 0, UNTIMED_STEPS, batchesOf).figures;
    const times = Array.from({ length: BLOCKS }, (_, block) => {
      const timed = pipelined(bench, UNTIMED_STEPS + block * STEPS, STEPS, batchesOf);
      figures.push(...timed.figures);
      return timed.secondsPerStep;
    });
    const hash = createHash('sha256');
    for (const tensor of bench.adapter.parameters().values()) hash.update(tensor.toBytes());
    return {
      losses: figures.map(({ loss }) => loss),
      adapter: hash.digest('hex'),
      secondsPerStep: median(times),
      sizes: bench.recorded(),
    };
  } finally {
    bench.dispose();
  }
}
