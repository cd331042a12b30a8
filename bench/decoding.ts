/** Steps of paged decoding on random weights: what decode-cpu and the device check time. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Device } from '../workers/engine/device.ts';
import { createModel, type Model, type ModelConfig, openModel } from '../workers/engine/models/index.ts';
import { KvCache } from '../workers/engine/models/kv-cache.ts';
import { LoraAdapter } from '../workers/engine/peft/lora.ts';

const BLOCK = 16;

export interface DecodeBench {
  model: Model;
  /** One token for each of `streams` sequences at `position`, each with its own adapter or all on the base. */
  decode(streams: number, position: number, withAdapters: boolean): void;
  dispose(): void;
}

/** A random model as the inference worker holds it, a cache for `streams` contexts of `positions`, an adapter each. */
export async function decodeBench(
  device: Device,
  config: ModelConfig,
  options: { dtype: 'f32' | 'bf16'; streams: number; positions: number; r: number },
): Promise<DecodeBench> {
  const { dtype, streams: most, positions, r } = options;
  const model = await servingModel(config, device, dtype);
  const blocksEach = Math.ceil(positions / BLOCK);
  const cache = new KvCache(model, { blocks: blocksEach * most, blockSize: BLOCK });
  const lora = { r, lora_alpha: 2 * r, lora_dropout: 0, target_modules: 'all-linear', use_rslora: false };
  const adapters = Array.from({ length: most }, (_, seed) => LoraAdapter.create(model, lora, seed));
  return {
    model,
    decode: (streams, position, withAdapters) => {
      model.forwardPaged(batchOf(streams, position, blocksEach, withAdapters ? adapters : null), cache);
    },
    dispose() {
      for (const thing of [cache, ...adapters, model]) thing.dispose();
    },
  };
}

/** Through a folder on disk: only a model that is opened gets its weights in serving layout. */
async function servingModel(config: ModelConfig, device: Device, dtype: 'f32' | 'bf16'): Promise<Model> {
  const folder = await mkdtemp(path.join(tmpdir(), 'lathe-bench-'));
  try {
    const random = createModel(config, device, { dtype, seed: 1, trainable: false });
    await random.save(folder);
    random.dispose();
    return openModel(folder, device, { dtype, forServing: true });
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
