/**
 * The thread behind engine.ts: loads the base model, then runs the engine loop between messages. A cancel that arrives
 * during a step takes effect before the next one. Knows the engine library; must not know HTTP, storage or settings.
 */
import { readFileSync } from 'node:fs';
import { freemem } from 'node:os';
import path from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { openDevice } from '../engine/device.ts';
import { KvCache, type Model, openModel } from '../engine/models/index.ts';
import { LoraAdapter } from '../engine/peft/lora.ts';
import { loadTokenizer } from '../engine/tokenizer/load.ts';
import { ResidentAdapters } from './adapters.ts';
import type { EngineOptions, EngineStats, FromEngine, ToEngine } from './engine.ts';
import { EngineLoop } from './engine-loop.ts';
import { KvBlocks } from './kv-blocks.ts';
import { ModelRunner } from './model-runner.ts';
import { createVocabulary } from './vocabulary.ts';

/** A failed adapter is not read again for this long. */
const RETRY_ADAPTER_MILLISECONDS = 30_000;
const KV_CACHE_BYTES_MAX = 2 ** 30;

const options = workerData as EngineOptions;
const port = parentPort!;
const send = (message: FromEngine): void => port.postMessage(message);

const device = openDevice({ kind: options.device, threads: options.threads });
const model = openModel(options.modelDirectory, device, {
  dtype: trainingDtype(options.modelDirectory),
  forServing: true,
});
const vocabulary = createVocabulary(loadTokenizer(options.modelDirectory), model.config);
const cache = new KvCache(model, { blocks: cacheBlocks(model), blockSize: options.blockSize });
const contextLength = Math.min(model.config.maxPositionEmbeddings, cache.blocks * cache.blockSize);
const blocks = new KvBlocks({
  blocks: cache.blocks,
  blockSize: cache.blockSize,
  prefixCache: options.prefixCache,
});
const adapters = new ResidentAdapters({
  capacity: options.maxAdapters,
  load: (directory) => LoraAdapter.load(directory, model),
  retryAfterMilliseconds: RETRY_ADAPTER_MILLISECONDS,
});
const loop = new EngineLoop({
  blocks,
  runner: new ModelRunner(model, cache, vocabulary.size),
  adapters,
  vocabulary,
  contextLength,
  tokenBudget: Math.max(options.tokenBudget, options.maxRunning),
  maxRunning: options.maxRunning,
  deliver: (events) => send({ type: 'events', events, stats: stats() }),
});

let turning = false;
port.on('message', (message: ToEngine) => {
  if (message.type === 'generate') loop.submit(message.request);
  else loop.cancel(message.id);
  if (turning) return;
  turning = true;
  setImmediate(turn);
});
send({
  type: 'ready',
  info: {
    contextLength,
    vocabSize: vocabulary.size,
    device: device.name,
    kvBlocks: cache.blocks,
    kvBytes: cache.bytes,
  },
});

/** One step, then whatever messages came meanwhile, then the next. */
function turn(): void {
  turning = loop.step();
  if (turning) setImmediate(turn);
  else send({ type: 'events', events: [], stats: stats() });
}

function stats(): EngineStats {
  const { running, waiting, preemptions } = loop.scheduler;
  return {
    running: running.length,
    waiting: waiting.length,
    adapters: adapters.digests,
    freeBlocks: blocks.free,
    preemptions,
  };
}

/** The precision that training on this base uses by default; serving computes what training computed. */
function trainingDtype(directory: string): 'bf16' | 'f32' {
  const config = JSON.parse(readFileSync(path.join(directory, 'config.json'), 'utf8')) as Record<
    string,
    unknown
  >;
  return (config.dtype ?? config.torch_dtype) === 'bfloat16' ? 'bf16' : 'f32';
}

/** As many blocks as the budget holds, but no more than all running sequences at full length could use. */
function cacheBlocks({ config }: Model): number {
  const bytes = options.kvCacheBytes || Math.min(KV_CACHE_BYTES_MAX, Math.floor(freemem() / 4));
  const most = options.maxRunning * Math.ceil(config.maxPositionEmbeddings / options.blockSize);
  const blocksThatFit = Math.floor(bytes / KvCache.bytesPerBlock(model, options.blockSize));
  if (blocksThatFit < 1)
    throw new Error(`a key/value cache of ${bytes} bytes holds not one block of this model`);
  return Math.min(most, blocksThatFit);
}
