/**
 * A model in memory with everything that generates from it: cache, blocks, adapters, runner, loop. Knows the engine
 * library; must not know threads, storage or settings.
 */
import { readFileSync } from 'node:fs';
import { freemem } from 'node:os';
import path from 'node:path';
import type { Device } from '../engine/device.ts';
import { SCRATCH_ROWS } from '../engine/models/decode-buckets.ts';
import { KvCache, type Model, openModel, type Quantization } from '../engine/models/index.ts';
import { LoraAdapter } from '../engine/peft/lora.ts';
import type { Tokenizer } from '../engine/tokenizer/load.ts';
import { ResidentAdapters } from './adapters.ts';
import { DeviceRunner } from './device-runner.ts';
import { EngineLoop } from './engine-loop.ts';
import type { EngineEvent, Vocabulary } from './generation.ts';
import type { GrammarStates } from './grammar/states.ts';
import { KvBlocks } from './kv-blocks.ts';
import { ModelRunner } from './model-runner.ts';
import { createVocabulary } from './vocabulary.ts';

/** A failed adapter is not read again for this long. */
export const RETRY_LOAD_MILLISECONDS = 30_000;
const KV_CACHE_BYTES_MAX = 2 ** 30;

export interface ModelHostOptions {
  directory: string;
  device: Device;
  tokenizer: Tokenizer;
  /** Memory of the key/value cache; 0 takes a quarter of what is free, of a computer's own memory 1 GiB at most. */
  kvCacheBytes: number;
  blockSize: number;
  prefixCache: boolean;
  maxRunning: number;
  maxAdapters: number;
  tokenBudget: number;
  deliver: (events: EngineEvent[]) => void;
  /** Constrained choices' states, shared by all models of this tokenizer. */
  grammars: GrammarStates;
  /** Rounds the linear weights; the `model` runner's alone. */
  quantization?: Quantization | null;
  /** Which runner computes: `device` on CUDA and `model` on the CPU unless given. */
  runner?: 'model' | 'device';
}

export class ModelHost {
  readonly model: Model;
  readonly cache: KvCache;
  readonly blocks: KvBlocks;
  readonly adapters: ResidentAdapters<LoraAdapter>;
  readonly vocabulary: Vocabulary & { size: number };
  /** Prompt + completion tokens of one sequence: the model's limit, or what the cache holds if that is less. */
  readonly contextLength: number;
  readonly loop: EngineLoop<LoraAdapter>;
  readonly #runner: ModelRunner | DeviceRunner;

  /** @throws when the folder is no model that can be served, or memory is short; nothing stays loaded then. */
  constructor(options: ModelHostOptions) {
    const { directory, device, blockSize, prefixCache, maxRunning, tokenBudget, quantization } = options;
    const onDevice = (options.runner ?? (device.kind === 'cpu' ? 'model' : 'device')) === 'device';
    this.model = openModel(directory, device, {
      dtype: trainingDtype(directory),
      forServing: !onDevice,
      quantization,
    });
    this.vocabulary = createVocabulary(options.tokenizer, this.model.config);
    const vocabSize = this.vocabulary.size;
    let cache: KvCache | null = null;
    try {
      const adapterBytes = Math.floor(freeBytes(device) / 4);
      const blocks = cacheBlocks(this.model, options);
      cache = new KvCache(this.model, { blocks, blockSize, scratchRows: onDevice ? SCRATCH_ROWS : 0 });
      this.#runner = onDevice
        ? new DeviceRunner(this.model, cache, { vocabSize, adapterSlots: options.maxAdapters, adapterBytes })
        : new ModelRunner(this.model, cache, vocabSize);
    } catch (error) {
      cache?.dispose();
      this.model.dispose();
      throw error;
    }
    this.cache = cache;
    const { model } = this;
    this.contextLength = Math.min(model.config.maxPositionEmbeddings, cache.blocks * blockSize);
    this.blocks = new KvBlocks({ blocks: cache.blocks, blockSize, prefixCache });
    this.adapters = new ResidentAdapters({
      capacity: options.maxAdapters,
      load: (folder) => this.#loading(folder),
      retryAfterMilliseconds: RETRY_LOAD_MILLISECONDS,
    });
    this.loop = new EngineLoop({
      blocks: this.blocks,
      runner: this.#runner,
      adapters: this.adapters,
      vocabulary: this.vocabulary,
      contextLength: this.contextLength,
      tokenBudget: Math.max(tokenBudget, maxRunning),
      maxRunning,
      deliver: options.deliver,
      grammars: options.grammars,
    });
  }

  /** One linear at a time; @throws also for an adapter that the runner could not hold. */
  *#loading(folder: string): Generator<void, LoraAdapter> {
    const adapter = yield* LoraAdapter.loading(folder, this.model);
    try {
      if (this.#runner instanceof DeviceRunner) this.#runner.check(adapter);
    } catch (error) {
      adapter.dispose();
      throw error;
    }
    return adapter;
  }

  dispose(): void {
    this.adapters.dispose();
    if (this.#runner instanceof DeviceRunner) this.#runner.dispose();
    this.cache.dispose();
    this.model.dispose();
  }
}

/** The precision that training on this model uses by default; serving computes what training computed. */
function trainingDtype(directory: string): 'bf16' | 'f32' {
  const text = readFileSync(path.join(directory, 'config.json'), 'utf8');
  const config = JSON.parse(text) as Record<string, unknown>;
  return (config.dtype ?? config.torch_dtype) === 'bfloat16' ? 'bf16' : 'f32';
}

/** Bytes that nothing has taken yet where the device's tensors lie. */
function freeBytes(device: Device): number {
  const capacity = device.capacity();
  return capacity === null ? freemem() : capacity - device.memory().inUse;
}

/** As many blocks as the budget holds, but no more than all running sequences at full length could use. */
function cacheBlocks(model: Model, options: ModelHostOptions): number {
  const quarter = Math.floor(freeBytes(options.device) / 4);
  const bytes =
    options.kvCacheBytes || (options.device.kind === 'cpu' ? Math.min(KV_CACHE_BYTES_MAX, quarter) : quarter);
  const most = options.maxRunning * Math.ceil(model.config.maxPositionEmbeddings / options.blockSize);
  const blocksThatFit = Math.floor(bytes / KvCache.bytesPerBlock(model, options.blockSize));
  if (blocksThatFit < 1)
    throw new Error(`a key/value cache of ${bytes} bytes holds not one block of this model`);
  return Math.min(most, blocksThatFit);
}
