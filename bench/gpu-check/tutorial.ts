/**
 * The job of the public tutorials on Qwen3-4B's shape: 3,729 short chat rows, r = 8, 32 rows a step. The same weights,
 * rows and adapter go to transformers + PEFT (bench/peers/peft_gpu.py) in its literal and in its best settings; losses
 * of the first steps must agree before speeds are compared.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PROJECT_ROOT } from '../../src/config.ts';
import type { Device } from '../../workers/engine/device.ts';
import type { PackedBatch } from '../../workers/engine/models/index.ts';
import { round } from '../options.ts';
import { shape } from '../shapes.ts';
import { type LoraBench, loraBench, pipelined } from '../training.ts';
import type { Context } from './report.ts';

const ROWS_PER_STEP = 32;
const COMPARED_STEPS = 20;
const TIMED_STEPS = 30;
/** Share of a row that is its answer, and the lengths of the public data set: median 62, p90 104, p99 156, at most 249. */
const ANSWER_SHARE = 0.34;
const LENGTHS = { median: 62, sigma: 0.4, least: 30, most: 249 };
const LOSS_BOUND = 1e-2;
/** Seconds that a peer may take, and milliseconds after the benchmarks' deadline at which the last one must have ended. */
const PEER_SECONDS = 100;
const GRACE_MS = 110_000;

interface PeerResult {
  samples_per_second: number;
  losses: number[];
  grad_norms: number[];
  peak_gib: number;
}

export async function benchmarkTutorial(device: Device, context: Context): Promise<void> {
  const { report, deadline } = context;
  if (device.kind !== 'cuda') return;
  if (performance.now() > deadline) {
    report.measure('the tutorials’ job', 'left out: no time was left');
    return;
  }
  const config = shape('qwen3-4b');
  const folder = mkdtempSync(path.join(tmpdir(), 'lathe-tutorial-'));
  try {
    const bench = loraBench(device, config, 'bf16', 8);
    const steps = drawSteps(config.vocabSize, COMPARED_STEPS + TIMED_STEPS);
    await bench.model.save(folder);
    await bench.adapter.save(path.join(folder, 'adapter'), { baseModelName: folder });
    writeFileSync(path.join(folder, 'steps.json'), JSON.stringify(steps));
    const ours = runOurs(bench, steps);
    bench.dispose();
    device.trim();
    report.keys.tutorial_samples_per_second = round(ours.speed, 4);
    report.judge(
      'tutorials’ job: 32 short rows a step, r=8, Qwen3-4B shape',
      `${Math.round(ours.speed)} samples/s`,
      '≥ 400',
      ours.speed >= 400,
    );
    for (const [mode, key, factor] of [
      ['tutorial', 'ratio_to_peft_tutorial', 10],
      ['best', 'ratio_to_peft_best', 1.5],
    ] as const) {
      comparePeer(mode, key, factor, ours, folder, context);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Row {
  ids: number[];
  /** The first so many tokens carry no label. */
  prompt: number;
}

function drawSteps(vocabSize: number, count: number): Row[][] {
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  const length = () => {
    const drawn = LENGTHS.median * Math.exp(LENGTHS.sigma * normal());
    return Math.round(Math.min(LENGTHS.most, Math.max(LENGTHS.least, drawn)));
  };
  const row = (): Row => {
    const ids = Array.from({ length: length() }, () => Math.floor(Math.random() * vocabSize));
    return { ids, prompt: Math.round((1 - ANSWER_SHARE) * ids.length) };
  };
  return Array.from({ length: count }, () => Array.from({ length: ROWS_PER_STEP }, row));
}

/** All rows of a step in one pack. */
function packed(rows: readonly Row[]): PackedBatch {
  const ends = rows.map(({ ids }) => ids.length - 1);
  const total = ends.reduce((a, b) => a + b, 0);
  const batch = {
    ids: new Int32Array(total),
    positions: new Int32Array(total),
    targets: new Int32Array(total).fill(-100),
    cuSeqlens: new Int32Array(rows.length + 1),
  };
  rows.forEach(({ ids, prompt }, s) => {
    const start = batch.cuSeqlens[s]!;
    batch.cuSeqlens[s + 1] = start + ends[s]!;
    for (let i = 0; i < ends[s]!; i++) {
      batch.ids[start + i] = ids[i]!;
      batch.positions[start + i] = i;
      if (i + 1 >= prompt) batch.targets[start + i] = ids[i + 1]!;
    }
  });
  return batch;
}

function runOurs(bench: LoraBench, steps: readonly Row[][]): { losses: number[]; speed: number } {
  const batches = steps.map((rows) => [packed(rows)]);
  const compared = pipelined(bench, 0, COMPARED_STEPS, (i) => batches[i]!);
  const timed = pipelined(bench, COMPARED_STEPS, TIMED_STEPS, (i) => batches[i]!);
  return { losses: compared.figures.map(({ loss }) => loss), speed: ROWS_PER_STEP / timed.secondsPerStep };
}

function comparePeer(
  mode: 'tutorial' | 'best',
  key: string,
  factor: number,
  ours: { losses: number[]; speed: number },
  folder: string,
  { report, deadline, withheld }: Context,
): void {
  const name = `tutorials’ job against PEFT, ${mode === 'best' ? 'at its best' : 'literal settings'}`;
  const script = path.join(PROJECT_ROOT, 'bench', 'peers', 'peft_gpu.py');
  const args = [script, '--folder', folder, '--mode', mode, '--compared', `${COMPARED_STEPS}`];
  const left = Math.min(PEER_SECONDS * 1000, deadline + GRACE_MS - performance.now());
  if (left < 30_000) {
    report.keys[key] = null;
    report.measure(name, 'left out: no time was left');
    return;
  }
  const run = spawnSync('python3', args, { encoding: 'utf8', timeout: left });
  if (run.status !== 0) {
    const reason = run.error?.message ?? run.stderr.trim().split('\n').at(-1) ?? `exit code ${run.status}`;
    report.keys[key] = null;
    report.measure(name, `not run: ${reason}`);
    return;
  }
  const peer = JSON.parse(run.stdout.trim().split('\n').at(-1)!) as PeerResult;
  const apart = Math.max(
    ...peer.losses
      .slice(0, COMPARED_STEPS)
      .map((loss, i) => Math.abs(loss - ours.losses[i]!) / Math.abs(loss)),
  );
  const ratio = ours.speed / peer.samples_per_second;
  report.ratio(key, round(ratio), withheld);
  report.keys[`${key}_loss_difference`] = round(apart);
  report.keys[`peft_${mode}_samples_per_second`] = round(peer.samples_per_second, 4);
  report.keys[`peft_${mode}_peak_gib`] = round(peer.peak_gib, 4);
  const isSame = apart <= LOSS_BOUND && peer.grad_norms.every((norm) => norm > 0);
  const losses = `losses apart by ${apart.toExponential(1)}`;
  const figure = `its ${round(peer.samples_per_second, 4)} samples/s; ${losses}`;
  if (withheld !== null) {
    report.judge(name, `${figure}; ratio withheld: ${withheld}`, `losses ≤ ${LOSS_BOUND}`, isSame);
    return;
  }
  const bound = `≥ ${factor}, losses ≤ ${LOSS_BOUND}`;
  report.judge(name, `${round(ratio)} × ${figure}`, bound, ratio >= factor && isSame);
}
