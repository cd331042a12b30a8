/**
 * Serving on the device against the CPU's runner: prompts and decoding of several sequences on three adapters and the
 * base, fed the same tokens; and recorded steps against the same steps asked for one by one. On the CPU the device's
 * runner computes with the CPU's ops.
 */
import path from 'node:path';
import { PROJECT_ROOT } from '../../src/config.ts';
import { type Device, openDevice } from '../../workers/engine/device.ts';
import { recorderOf } from '../../workers/engine/graphs.ts';
import { SCRATCH_ROWS } from '../../workers/engine/models/decode-buckets.ts';
import { KvCache, type Model, openModel } from '../../workers/engine/models/index.ts';
import { LORA_DEFAULTS, LoraAdapter } from '../../workers/engine/peft/index.ts';
import { uniformAt } from '../../workers/engine/rng.ts';
import type { FloatDType } from '../../workers/engine/tensor.ts';
import { DeviceRunner } from '../../workers/inference/device-runner.ts';
import { ModelRunner, type RunItem, type Runner } from '../../workers/inference/model-runner.ts';
import type { Sample } from '../../workers/inference/sample.ts';
import { Sampler } from '../../workers/inference/sampling.ts';
import { GREEDY } from '../decoding.ts';
import { type Context, scientific } from './report.ts';

const folder = path.join(PROJECT_ROOT, 'models', 'lathe-tiny');
const SEQUENCES = 11;
const ADAPTERS = 3;
const PROMPT = 40;
const NEW_TOKENS = 24;
const BLOCK = 16;
const BLOCKS_EACH = Math.ceil((PROMPT + NEW_TOKENS) / BLOCK);
/** Log-probabilities of f32 against f32, and with every activation rounded to bf16. */
const BOUNDS: Record<FloatDType, number> = { f32: 1e-3, bf16: 0.15 };

export function checkServing(device: Device, { report }: Context): void {
  const cpu = device.kind === 'cpu' ? device : openDevice({ kind: 'cpu' });
  const seed = Math.floor(Math.random() * 2 ** 32);
  const reference = withRunner(cpu, 'f32', 'model', (runner, adapters) => told(runner, adapters, seed, null));
  for (const dtype of ['f32', 'bf16'] as const) {
    let recordings = 0;
    const [recorded, plain] = (['recorded', 'plain'] as const).map((kind) =>
      withRunner(device, dtype, kind, (runner, adapters) => {
        const samples = told(runner, adapters, seed, reference);
        if (kind === 'recorded' && runner instanceof DeviceRunner) recordings = runner.recorded;
        return samples;
      }),
    );
    const errors = recorded!.flatMap((samples, i) =>
      samples.map((sample, k) =>
        Math.abs(logprobOf(reference[i]![k]!.token, sample) - reference[i]![k]!.logprob),
      ),
    );
    const error = Math.max(...errors);
    report.keys[`serving_logprob_error_${dtype}`] = error;
    const bound = BOUNDS[dtype];
    report.judge(`log-probabilities in serving, ${dtype}`, scientific(error), `≤ ${bound}`, error <= bound);
    const same = JSON.stringify(recorded) === JSON.stringify(plain);
    report.keys[`serving_recorded_same_${dtype}`] = same;
    const figure = `${recordings} sizes recorded, ${same ? 'same numbers' : 'differ'}`;
    const isRecorded = recordings > 0 || recorderOf(device) === null;
    report.judge(`recorded decode steps, ${dtype}`, figure, 'recorded, same numbers', same && isRecorded);
  }
}

/** Of the reference's token; infinitely far when it is not even among the best here. */
function logprobOf(token: number, sample: Sample): number {
  return sample.top.find(([id]) => id === token)?.[1] ?? Number.POSITIVE_INFINITY;
}

type RunnerKind = 'model' | 'recorded' | 'plain';

function withRunner<T>(
  device: Device,
  dtype: FloatDType,
  kind: RunnerKind,
  use: (runner: Runner<LoraAdapter>, adapters: readonly LoraAdapter[]) => T,
): T {
  const open: { dispose(): void }[] = [];
  const owned = <A extends { dispose(): void }>(thing: A): A => {
    open.push(thing);
    return thing;
  };
  try {
    const model = owned(openModel(folder, device, { dtype, forServing: kind === 'model' }));
    const options = { blocks: SEQUENCES * BLOCKS_EACH, blockSize: BLOCK, scratchRows: SCRATCH_ROWS };
    const cache = owned(new KvCache(model, options));
    const { vocabSize } = model.config;
    const adapters = Array.from({ length: ADAPTERS }, (_, i) => owned(randomAdapter(model, i)));
    if (kind === 'model') return use(new ModelRunner(model, cache, vocabSize), adapters);
    const pool = { adapterSlots: ADAPTERS, adapterBytes: 2 ** 30 };
    const recorder = kind === 'plain' ? null : undefined;
    return use(owned(new DeviceRunner(model, cache, { vocabSize, ...pool, recorder })), adapters);
  } finally {
    for (const thing of open.reverse()) thing.dispose();
  }
}

/** Small enough not to drown the model, large enough to be seen; the ranks 4, 8 and 12. */
function randomAdapter(model: Model, index: number): LoraAdapter {
  const r = 4 * (index + 1);
  const targets = { target_modules: 'all-linear' as const, init_lora_weights: false, use_rslora: false };
  return LoraAdapter.create(model, { ...LORA_DEFAULTS, ...targets, r, lora_alpha: r / 2 }, index);
}

/** Greedy samples of every sequence. `fed`: whose tokens come next in place of the own ones. */
function told(
  runner: Runner<LoraAdapter>,
  adapters: readonly LoraAdapter[],
  seed: number,
  fed: readonly Sample[][] | null,
): Sample[][] {
  const samplers = Array.from({ length: SEQUENCES }, (_, s) => new Sampler(REPORTING, seed, s));
  const samples: Sample[][] = samplers.map(() => []);
  const next = (s: number): Int32Array => {
    const before = (fed ?? samples)[s]![samples[s]!.length - 1];
    if (samples[s]!.length > 0) return Int32Array.of(before!.token);
    const length = 1 + Math.floor(uniformAt(seed, s, 0) * (PROMPT - 1));
    return Int32Array.from({ length }, (_, i) => 10 + Math.floor(uniformAt(seed, s, i + 1) * 400));
  };
  const done = new Int32Array(SEQUENCES);
  for (let step = 0; step < NEW_TOKENS; step++) {
    const items = samplers.map((sampler, s): RunItem<LoraAdapter> => {
      const adapter = s % (ADAPTERS + 1) === 0 ? null : adapters[(s % (ADAPTERS + 1)) - 1]!;
      const blocks = Array.from({ length: BLOCKS_EACH }, (_, b) => s + b * SEQUENCES);
      const adapterKey = adapter && String(adapters.indexOf(adapter));
      return { tokens: next(s), start: done[s]!, blocks, adapterKey, adapter, sampler, score: null };
    });
    runner.run(items).forEach((sample, s) => {
      if (sample === null || typeof sample === 'string') throw new Error(`serving: no token but ${sample}`);
      done[s]! += items[s]!.tokens.length;
      samples[s]!.push(sample);
    });
  }
  return samples;
}

const REPORTING = { ...GREEDY, logprobs: true, top_logprobs: 20 };
