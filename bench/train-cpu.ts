/**
 * LoRA training on the CPU: whole optimizer steps on packed random tokens, in turns with PyTorch + PEFT on the same weights,
 * rows and starting adapter where a Python with them is named (--python or LATHE_PEER_PYTHON; bench/peers/peft_cpu.py), and
 * against the compute floor (`4N + 6P` FLOPs a token, the head on labelled rows only) at the product speed of this run.
 * --lengths=chat: batches of 16 rows in the lengths of short chat data, which the peer pads to the longest.
 */
import { fileURLToPath } from 'node:url';
import { type Device, openDevice } from '../workers/engine/device.ts';
import { estimatedBytes, estimateMemory } from '../workers/engine/models/memory-estimate.ts';
import { gemmCeiling } from './ceilings.ts';
import { machine, median, options, peakRssMib, round, rssMib } from './options.ts';
import { type Block, type Comparison, interleave, type Side } from './peers/interleave.ts';
import { PeerProcess } from './peers/peer-process.ts';
import { shape } from './shapes.ts';
import { type LoraBench, loraFlopsPerToken, openLoraBench } from './training.ts';
import { trainingFolder } from './training-folder.ts';
import { chatLengths, packRows, type Row, randomRows } from './training-rows.ts';

const CHAT_ROWS = 16;
/** Loss and gradient norm of both sides at their common start. */
const AGREEMENT = 1e-2;
const PEER = fileURLToPath(new URL('peers/peft_cpu.py', import.meta.url));

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const o = options(args, {
    ...{
      model: 'lathe-tiny',
      dtype: 'bf16',
      tokens: 2048,
      length: 128,
      lengths: 'even',
      labelled: 0.4,
      r: 8,
    },
    ...{ pairs: 5, python: process.env.LATHE_PEER_PYTHON ?? '', adapter: 'float32', head: 'labelled' },
  });
  const dtype = o.dtype === 'f32' ? 'f32' : 'bf16';
  const config = shape(o.model);
  const folder = trainingFolder(o.model, dtype, o.r);
  const processMib = rssMib(process.pid);
  const device = openDevice({ kind: 'cpu' });
  const bench = openLoraBench(device, folder, dtype);
  // A pair of blocks trains on the same rows; block 0 is the warm-up and shows whether both sides agree.
  const steps = Array.from({ length: o.pairs + 1 }, (_, i) => {
    const lengths = o.lengths === 'chat' ? chatLengths(CHAT_ROWS, i) : sequenceLengths(o.tokens, o.length);
    return randomRows(config.vocabSize, lengths, o.labelled, 100 + i);
  });
  const own = latheSide(bench, steps);
  const command = [o.python, PEER, '--folder', folder, '--threads', String(device.threads)];
  const peer =
    o.python === ''
      ? null
      : await PeerProcess.start('peft', [...command, '--adapter', o.adapter, '--head', o.head]);
  const compared = peer === null ? null : await compare(own, peer, steps, o.pairs);
  if (compared === null) for (let i = 0; i <= o.pairs; i++) own.run();
  peer?.close();

  const rss = peakRssMib();
  const timed = steps.slice(1).flat();
  const tokens = timed.reduce((sum, { ids }) => sum + ids.length, 0);
  const labelled = timed.reduce((sum, { ids, prompt }) => sum + ids.length - Math.max(prompt, 1), 0) / tokens;
  const seconds = median(own.seconds.slice(1));
  const gflops = median(Array.from({ length: 5 }, () => gemmCeiling(device, dtype, 3)));
  const floor = (gflops * 1e9) / loraFlopsPerToken(config, o.r, labelled, tokens / timed.length);
  const speed = tokens / o.pairs / seconds;
  return {
    ...o,
    ...machine(),
    isa: device.native.info().isa,
    threads: device.threads,
    tokens_per_second: round(speed),
    samples_per_second: round(timed.length / o.pairs / seconds),
    floor_tokens_per_second: round(floor),
    ratio_to_floor: round(speed / floor),
    gemm_gflops: round(gflops),
    step_seconds: own.seconds.slice(1).map((value) => round(value)),
    ...own.first,
    peak_rss_mib: rss,
    ...memoryFigures(device, bench, steps, processMib, rss),
    ...(compared ?? { peer: 'none: name a Python with torch and peft by --python or LATHE_PEER_PYTHON' }),
  };
}

interface LatheSide extends Side {
  run(): Block;
  seconds: number[];
  /** Loss and gradient norm of the first step. */
  first: { loss: number; grad_norm: number };
}

function latheSide(bench: LoraBench, steps: Row[][]): LatheSide {
  const batches = steps.map(packRows);
  const side: LatheSide = {
    name: 'lathe',
    seconds: [],
    first: { loss: Number.NaN, grad_norm: Number.NaN },
    run() {
      const index = side.seconds.length;
      const start = performance.now();
      const { loss, gradNorm } = bench.step(index, [batches[index % batches.length]!]);
      const seconds = (performance.now() - start) / 1000;
      if (index === 0) side.first = { loss: round(loss, 5), grad_norm: round(gradNorm, 5) };
      side.seconds.push(seconds);
      return { seconds, loss, grad_norm: gradNorm };
    },
  };
  return side;
}

/** Throws when the sides do not agree at their common start: then they did not do the same work. */
async function compare(own: LatheSide, peer: PeerProcess, steps: Row[][], pairs: number) {
  const answers: Block[] = [];
  const theirs: Side = {
    name: 'peft',
    async run() {
      const answer = (await peer.ask({ run: [steps[answers.length % steps.length]] })) as Block;
      answers.push(answer);
      return answer;
    },
  };
  const comparison: Comparison = await interleave(own, theirs, pairs);
  const first = answers[0] as Block & { loss: number; grad_norm: number };
  for (const what of ['loss', 'grad_norm'] as const) {
    const [a, b] = [own.first[what], first[what]];
    const same = a > 0 && Math.abs(a - b) <= AGREEMENT * b;
    if (!same) throw new Error(`the sides do not agree at their start: ${what} ${a} and ${b}`);
  }
  const { last, ...rest } = comparison;
  const rss = Number(last.peft?.peak_rss_mib);
  return {
    ratio_to_peer: comparison.ratio,
    rss_ratio_to_peer: round(peakRssMib() / rss),
    peer: peer.facts,
    peer_loss: round(first.loss, 5),
    peer_grad_norm: round(first.grad_norm, 5),
    peer_peak_rss_mib: Math.round(rss),
    comparison: rest,
  };
}

/** What the estimate of the largest step and the process before it opened a model add up to, and the ratio to the peak. */
function memoryFigures(
  device: Device,
  { model }: LoraBench,
  steps: Row[][],
  processMib: number,
  rss: number,
) {
  const tokens = Math.max(...steps.map((rows) => rows.reduce((sum, { ids }) => sum + ids.length, 0)));
  const estimate = estimateMemory(
    model.config,
    model.dtype,
    device.activationDtype(model.dtype),
    model.counts(),
    false,
    tokens,
  );
  const mib = processMib + estimatedBytes(estimate, false) / 2 ** 20;
  return { estimated_mib: Math.round(mib), estimate_to_peak: round(mib / rss) };
}

/** `tokens` in sequences of `length`, the last one shorter where it does not divide. */
function sequenceLengths(tokens: number, length: number): number[] {
  return Array.from({ length: Math.ceil(tokens / length) }, (_, s) => Math.min(length, tokens - s * length));
}
