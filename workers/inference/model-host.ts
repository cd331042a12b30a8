/**
 * A model in memory with everything that generates from it: cache, blocks, adapters, runner, loop. Knows the engine
 * library; must not know threads, storage or settings.
 */
import { readFileSync } from 'node:fs';
import { freemem } from 'node:os';
import path from 'node:path';
import type { Device } from '../engine/device.ts';
import { KvCache, type Model, openModel } from '../engine/models/index.ts';
import { LoraAdapter } from '../engine/peft/lora.ts';
import type { Tokenizer } from '../engine/tokenizer/load.ts';
import { ResidentAdapters } from './adapters.ts';
import { type EngineEvent, EngineLoop, type Vocabulary } from './engine-loop.ts';
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
  /** Memory of the key/value cache; 0 takes a quarter of what is free, 1 GiB at most. */
  kvCacheBytes: number;
  blockSize: number;
  prefixCache: boolean;
  maxRunning: number;
  maxAdapters: number;
  tokenBudget: number;
  deliver: (events: EngineEvent[]) => void;
  /** Constrained choices' states, shared by all models of this tokenizer. */
  grammars: GrammarStates;
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

  /** @throws when the folder is no model that can be served, or memory is short; nothing stays loaded then. */
  constructor(options: ModelHostOptions) {
    const { directory, device, blockSize, prefixCache, maxRunning, tokenBudget } = options;
    this.model = openModel(directory, device, { dtype: trainingDtype(directory), forServing: true });
    try {
      this.cache = new KvCache(this.model, { blocks: cacheBlocks(this.model, options), blockSize });
    } catch (error) {
      this.model.dispose();
      throw error;
    }
    const { model, cache } = this;
    this.vocabulary = createVocabulary(options.tokenizer, model.config);
    this.contextLength = Math.min(model.config.maxPositionEmbeddings, cache.blocks * blockSize);
    this.blocks = new KvBlocks({ blocks: cache.blocks, blockSize, prefixCache });
    this.adapters = new ResidentAdapters({
      capacity: options.maxAdapters,
      load: (folder) => LoraAdapter.loading(folder, model),
      retryAfterMilliseconds: RETRY_LOAD_MILLISECONDS,
    });
    this.loop = new EngineLoop({
      blocks: this.blocks,
      runner: new ModelRunner(model, cache, this.vocabulary.size),
      adapters: this.adapters,
      vocabulary: this.vocabulary,
      contextLength: this.contextLength,
      tokenBudget: Math.max(tokenBudget, maxRunning),
      maxRunning,
      deliver: options.deliver,
      grammars: options.grammars,
    });
  }

  dispose(): void {
    this.adapters.dispose();
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

/** As many blocks as the budget holds, but no more than all running sequences at full length could use. */
function cacheBlocks(model: Model, options: ModelHostOptions): number {
  const bytes = options.kvCacheBytes || Math.min(KV_CACHE_BYTES_MAX, Math.floor(freemem() / 4));
  const most = options.maxRunning * Math.ceil(model.config.maxPositionEmbeddings / options.blockSize);
  const blocksThatFit = Math.floor(bytes / KvCache.bytesPerBlock(model, options.blockSize));
  if (blocksThatFit < 1)
    throw new Error(`a key/value cache of ${bytes} bytes holds not one block of this model`);
  return Math.min(most, blocksThatFit);
}
