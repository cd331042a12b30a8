/**
 * The thread behind engine.ts: holds the base model (and now and then a fully fine-tuned one) and runs their loops
 * between messages. A cancel that arrives during a step takes effect before the next one.
 * Must not know HTTP, storage or settings.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { openDevice } from '../engine/device.ts';
import { loadTokenizer } from '../engine/tokenizer/load.ts';
import type { EngineStats, EngineThreadData, FromEngine, ToEngine } from './engine.ts';
import { FullModels } from './full-models.ts';
import type { EngineEvent } from './generation.ts';
import { GrammarStates } from './grammar/states.ts';
import { ModelHost, RETRY_LOAD_MILLISECONDS } from './model-host.ts';

const options = workerData as EngineThreadData;
const port = parentPort!;
const send = (message: FromEngine): void => port.postMessage(message);
const deliver = (events: EngineEvent[]): void => send({ type: 'events', events, stats: stats() });

const device = openDevice({ kind: options.device, threads: options.threads });
const tokenizer = loadTokenizer(options.modelDirectory);
const grammars = new GrammarStates(tokenizer.vocabSize);
const openHost = (directory: string): ModelHost =>
  new ModelHost({ ...options, directory, device, tokenizer, deliver, grammars });

const base = openHost(options.modelDirectory);
const fullModels = new FullModels({
  open: (directory) => {
    const host = openHost(directory);
    if (host.contextLength >= base.contextLength && host.vocabulary.size === base.vocabulary.size)
      return host;
    host.dispose();
    throw new Error('its context or vocabulary is smaller than the base model’s');
  },
  deliver,
  retryAfterMilliseconds: RETRY_LOAD_MILLISECONDS,
});

let turning = false;
port.on('message', (message: ToEngine) => {
  if (message.type === 'grammar-thread') {
    grammars.connect(message.thread, message.port);
    return;
  }
  if (message.type === 'cancel') {
    base.loop.cancel(message.id);
    fullModels.cancel(message.id);
  } else if (message.fullModel) fullModels.submit(message.request, message.fullModel);
  else base.loop.submit(message.request);
  if (turning) return;
  turning = true;
  setImmediate(turn);
});
send({
  type: 'ready',
  info: {
    contextLength: base.contextLength,
    vocabSize: base.vocabulary.size,
    device: options.quantization ? `${device.name}, ${options.quantization} weights` : device.name,
    kvBlocks: base.cache.blocks,
    kvBytes: base.cache.bytes,
  },
});

/** One step of each model, then whatever messages came meanwhile, then the next. Beside another model nothing is put off. */
function turn(): void {
  Atomics.add(options.pulse, 0, 1); // a sign of life for engine.ts
  const more = base.loop.step();
  if (fullModels.busy) base.loop.tell();
  turning = fullModels.step() || more;
  if (more) fullModels.tell();
  if (turning) setImmediate(turn);
  else deliver([]);
}

function stats(): EngineStats {
  const { running, waiting, preemptions } = base.loop.scheduler;
  const full = fullModels.resident;
  return {
    running: running.length,
    waiting: waiting.length,
    adapters: full === null ? base.adapters.digests : [...base.adapters.digests, full],
    freeBlocks: base.blocks.free,
    preemptions,
  };
}
