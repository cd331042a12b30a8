/** Steps of decoding on random weights, through the device's runner: what decode-cpu and the device check time. */
import { mkdtempSync, rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { WireSampling } from '../src/inference/protocol.ts';
import type { Device } from '../workers/engine/device.ts';
import { SCRATCH_ROWS } from '../workers/engine/models/decode-buckets.ts';
import {
  createModel,
  type Model,
  type ModelConfig,
  openModel,
  type Quantization,
} from '../workers/engine/models/index.ts';
import { KvCache } from '../workers/engine/models/kv-cache.ts';
import { LoraAdapter } from '../workers/engine/peft/lora.ts';
import { DeviceRunner } from '../workers/inference/device-runner.ts';
import type { RunItem } from '../workers/inference/model-runner.ts';
import { Sampler } from '../workers/inference/sampling.ts';

const BLOCK = 16;

export interface DecodeBench {
  model: Model;
  /** One token for each of `streams` sequences at `position`, each with its own adapter or all on the base. */
  decode(streams: number, position: number, withAdapters: boolean): void;
  /** From an adapter that lies on disk and nowhere else to one token drawn with it. */
  loadAndDecode(position: number): void;
  dispose(): void;
}

/** A random model as the inference worker holds it, a cache for `streams` contexts of `positions`, an adapter each. */
export async function decodeBench(
  device: Device,
  config: ModelConfig,
  options: {
    dtype: 'f32' | 'bf16';
    streams: number;
    positions: number;
    r: number;
    /** Which of the worker's runners; the one that serves on this device unless given. */
    runner?: 'model' | 'device';
    /** A model folder with the weights; random ones unless given. */
    folder?: string;
    quantization?: Quantization | null;
  },
): Promise<DecodeBench> {
  const { dtype, streams: most, positions, r } = options;
  const onDevice = (options.runner ?? (device.kind === 'cpu' ? 'model' : 'device')) === 'device';
  const { folder, quantization } = options;
  const model = folder
    ? openModel(folder, device, { dtype, forServing: !onDevice, quantization })
    : await servingModel(config, device, dtype, !onDevice, quantization ?? null);
  const blocksEach = Math.ceil(positions / BLOCK);
  const scratchRows = onDevice ? SCRATCH_ROWS : 0;
  const cache = new KvCache(model, { blocks: blocksEach * most, blockSize: BLOCK, scratchRows });
  const lora = { r, lora_alpha: 2 * r, lora_dropout: 0, target_modules: 'all-linear', use_rslora: false };
  const adapters = Array.from({ length: most }, (_, seed) => LoraAdapter.create(model, lora, seed));
  for (const [seed, adapter] of adapters.entries())
    for (const [name, tensor] of adapter.parameters())
      if (name.includes('lora_B')) device.native.randomNormal(tensor.handle, 0, 0.02, seed, name.length);
  const stored = mkdtempSync(path.join(tmpdir(), 'lathe-bench-adapter-'));
  await adapters[0]!.save(stored, { baseModelName: 'bench' });
  const withLoaded = (use: (adapter: LoraAdapter) => void) => {
    const loaded = LoraAdapter.load(stored, model);
    use(loaded);
    loaded.dispose();
  };
  if (!onDevice)
    return {
      model,
      loadAndDecode: (position) =>
        withLoaded((loaded) => {
          model.forwardPaged(batchOf(1, position, blocksEach, [loaded]), cache);
        }),
      decode: (streams, position, withAdapters) => {
        model.forwardPaged(batchOf(streams, position, blocksEach, withAdapters ? adapters : null), cache);
      },
      dispose: () => disposeAll([cache, ...adapters, model], stored),
    };
  const runner = new DeviceRunner(model, cache, {
    vocabSize: config.vocabSize,
    adapterSlots: most,
    adapterBytes: Number.MAX_SAFE_INTEGER,
  });
  const samplers = Array.from({ length: most }, (_, s) => new Sampler(GREEDY, s, 0));
  return {
    model,
    decode: (streams, position, withAdapters) => {
      const items = samplers
        .slice(0, streams)
        .map((sampler, s) => itemOf(s, position, blocksEach, withAdapters ? adapters[s]! : null, sampler));
      runner.run(items);
    },
    loadAndDecode: (position) =>
      withLoaded((loaded) => {
        runner.run([itemOf(0, position, blocksEach, loaded, samplers[0]!)]);
      }),
    dispose: () => disposeAll([runner, cache, ...adapters, model], stored),
  };
}

export const GREEDY: WireSampling = {
  max_tokens: null,
  temperature: 0,
  top_p: 1,
  n: 1,
  stop: [],
  seed: null,
  logprobs: false,
  top_logprobs: 0,
  presence_penalty: 0,
  frequency_penalty: 0,
  logit_bias: {},
};

/** The next token of stream `s`, as the inference worker would ask for it. */
function itemOf(
  s: number,
  position: number,
  blocksEach: number,
  adapter: LoraAdapter | null,
  sampler: Sampler,
): RunItem<LoraAdapter> {
  return {
    tokens: Int32Array.of(17 + s),
    start: position,
    blocks: Array.from({ length: blocksEach }, (_, b) => s * blocksEach + b),
    adapterKey: adapter && String(s),
    adapter,
    sampler,
    score: null,
  };
}

function disposeAll(things: readonly { dispose(): void }[], folder: string): void {
  for (const thing of things) thing.dispose();
  rmSync(folder, { recursive: true });
}

/** Through a folder on disk: only a model that is opened gets its weights in serving layout. */
async function servingModel(
  config: ModelConfig,
  device: Device,
  dtype: 'f32' | 'bf16',
  forServing: boolean,
  quantization: Quantization | null,
): Promise<Model> {
  const folder = await mkdtemp(path.join(tmpdir(), 'lathe-bench-'));
  try {
    const random = createModel(config, device, { dtype, seed: 1, trainable: false });
    await random.save(folder);
    random.dispose();
    return openModel(folder, device, { dtype, forServing, quantization });
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Stream `s` owns `blocksEach` consecutive blocks. */
function batchOf(streams: number, position: number, blocksEach: number, adapters: LoraAdapter[] | null) {
  const each = <T>(f: (s: number) => T) => Array.from({ length: streams }, (_, s) => f(s));
  return {
    ids: Int32Array.from(each((s) => 17 + s)),
    positions: new Int32Array(streams).fill(position),
    cuSeqlensQ: Int32Array.from({ length: streams + 1 }, (_, s) => s),
    contextLens: new Int32Array(streams).fill(position + 1),
    blockTables: Int32Array.from({ length: streams * blocksEach }, (_, i) => i),
    maxBlocks: blocksEach,
    slots: Int32Array.from(each((s) => s * blocksEach * BLOCK + position)),
    logitRows: Int32Array.from(each((s) => s)),
    adapters: adapters
      ? each((s) => ({ adapter: adapters[s]!, start: s, end: s + 1 }))
      : [{ adapter: null, start: 0, end: streams }],
  };
}
