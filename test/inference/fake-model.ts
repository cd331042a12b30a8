/**
 * A "model" of arithmetic on a real paged cache: it stores each token in the row the batch names, reads its context
 * back through the block table, and hashes it into logits. One wrong block, slot or adapter range changes the text.
 */
import type { WireSampling } from '../../src/inference/protocol.ts';
import { ResidentAdapters } from '../../workers/inference/adapters.ts';
import { EngineLoop } from '../../workers/inference/engine-loop.ts';
import type { EngineEvent, GenerationRequest, Vocabulary } from '../../workers/inference/generation.ts';
import { GrammarStates } from '../../workers/inference/grammar/states.ts';
import { KvBlocks } from '../../workers/inference/kv-blocks.ts';
import { byAdapter, layOut, type RunItem, type Runner } from '../../workers/inference/model-runner.ts';
import type { NoSample, Sample } from '../../workers/inference/sample.ts';
import { Sampler } from '../../workers/inference/sampling.ts';
import { PLAIN_SAMPLING } from '../helpers/plain-sampling.ts';

const VOCAB = 64;
const EOS = 63;

class FakeAdapter {
  readonly id: number;
  disposed = false;

  /** The directory "adapter-<n>" is adapter n; "broken" cannot be loaded; "infinite" makes NaN logits. */
  constructor(directory: string) {
    if (directory === 'broken') throw new Error('adapter_model.safetensors is not a PEFT file');
    this.id = directory === 'infinite' ? Number.NaN : Number(directory.split('-')[1]);
  }

  dispose(): void {
    this.disposed = true;
  }
}

/** Logits after `context` with adapter number `adapter` (0 = base): a hash of every token and its position. */
function fakeLogits(context: ArrayLike<number>, adapter: number): Float32Array {
  let hash = 17 + adapter * 7919;
  for (let i = 0; i < context.length; i++) hash = (Math.imul(hash, 31) + context[i]! * (i + 1)) >>> 0;
  return Float32Array.from({ length: VOCAB }, (_, token) => {
    const x = Math.imul(hash ^ Math.imul(token + 1, 0x9e3779b1), 0x85ebca6b) >>> 0;
    return Number.isNaN(adapter) ? Number.NaN : (x / 2 ** 32) * 6 - (token === EOS ? 2 : 0);
  });
}

class FakeRunner implements Runner<FakeAdapter> {
  steps = 0;
  tokensRun = 0;
  /** As a device that works ahead: what the loop does meanwhile is done before any outcome is known. */
  worksAhead = false;
  /** Token and position in every row of the cache. */
  readonly #rows: [token: number, position: number][] = [];
  readonly #blockSize: number;

  constructor(blockSize: number) {
    this.#blockSize = blockSize;
  }

  /** Tokens that fit into memory in one step; more of them fail as the native library fails. */
  fits = Number.POSITIVE_INFINITY;
  trims = 0;

  trim(): void {
    this.trims++;
  }

  run(items: readonly RunItem<FakeAdapter>[], meanwhile?: () => void): (Sample | NoSample | null)[] {
    const order = byAdapter(items);
    const batch = layOut(items, order, this.#blockSize);
    if (batch.ids.length > this.fits) {
      throw Object.assign(new Error('out of memory'), { code: 'LATHE_OUT_OF_MEMORY' });
    }
    this.steps++;
    this.tokensRun += batch.ids.length;
    if (batch.adapters[0]?.start !== 0 || batch.adapters.at(-1)?.end !== batch.ids.length) {
      throw new Error('adapter ranges do not cover the batch');
    }
    batch.slots.forEach((slot, t) => {
      this.#rows[slot] = [batch.ids[t]!, batch.positions[t]!];
    });
    if (this.worksAhead) meanwhile?.();
    const samples = new Array<Sample | NoSample | null>(items.length).fill(null);
    order.forEach((index, s) => {
      const { sampler, score, start, tokens } = items[index]!;
      const end = batch.cuSeqlensQ[s + 1]!;
      const range = batch.adapters.find(({ start: from, end: to }) => from < end && end <= to)!;
      const adapter = range.adapter?.id ?? 0;
      const context = this.#context(batch, s);
      if (score || sampler) {
        const rows = score ? tokens.length : 1;
        for (let row = end - rows; row < end; row++)
          if (!batch.logitRows.includes(row)) throw new Error('no logits for a row that needs them');
      }
      if (score) {
        for (const i of tokens.keys()) score(start + i, fakeLogits(context.slice(0, start + i + 1), adapter));
      }
      if (sampler) samples[index] = sampler.sample(fakeLogits(context, adapter));
    });
    return samples;
  }

  #context(batch: ReturnType<typeof layOut>, s: number): number[] {
    return Array.from({ length: batch.contextLens[s]! }, (_, position) => {
      const block = batch.blockTables[s * batch.maxBlocks + Math.floor(position / this.#blockSize)]!;
      const [token, at] = this.#rows[block * this.#blockSize + (position % this.#blockSize)]!;
      if (at !== position) throw new Error(`cache row of position ${position} holds position ${at}`);
      return token;
    });
  }
}

/** Token t reads as one letter; 62 and 61 are the two halves of "é". */
export const vocabulary: Vocabulary = {
  eos: new Set([EOS]),
  createDecoder: () => {
    const decoder = new TextDecoder();
    return {
      push: (token) => decoder.decode(bytesOf(token), { stream: true }),
      flush: () => decoder.decode(),
    };
  },
  describe: (token) => ({ token: String(token), bytes: [...bytesOf(token)] }),
};

function bytesOf(token: number): Uint8Array {
  if (token === 62) return Uint8Array.of(0xc3);
  if (token === 61) return Uint8Array.of(0xa9);
  return Uint8Array.of(0x30 + token);
}

/** Prompts of one token, of a few, and of several blocks; the last begins as the first does. */
export const PROMPTS = [
  [1, 2, 3],
  Array.from({ length: 29 }, (_, i) => i % 7),
  [9],
  Array.from({ length: 50 }, (_, i) => (i * i) % 11),
  [1, 2, 3, 4],
];

export const plainSampling: WireSampling = { ...PLAIN_SAMPLING, max_tokens: 12, temperature: 0 };

export interface FakeLoopOptions {
  blocks?: number;
  blockSize?: number;
  tokenBudget?: number;
  maxRunning?: number;
  maxAdapters?: number;
  prefixCache?: boolean;
  contextLength?: number;
  worksAhead?: boolean;
  /** Pieces of 3 ms in which an adapter is read; absent = at once. */
  adapterPieces?: number;
}

function* inPieces(count: number, load: () => FakeAdapter): Generator<void, FakeAdapter> {
  for (let i = 0; i < count; i++) {
    for (const until = performance.now() + 3; performance.now() < until; );
    yield;
  }
  return load();
}

/** An engine loop over the fake model, with the events of each request collected. */
export function createLoop(o: FakeLoopOptions = {}) {
  const { blockSize = 4, contextLength = 120 } = o;
  const events = new Map<number, EngineEvent[1][]>();
  const loaded: FakeAdapter[] = [];
  const blocks = new KvBlocks({ blocks: o.blocks ?? 64, blockSize, prefixCache: o.prefixCache ?? true });
  const runner = new FakeRunner(blockSize);
  runner.worksAhead = o.worksAhead ?? false;
  const adapters = new ResidentAdapters({
    capacity: o.maxAdapters ?? 4,
    load: (directory) => {
      const load = () => {
        const adapter = new FakeAdapter(directory);
        loaded.push(adapter);
        return adapter;
      };
      return o.adapterPieces ? inPieces(o.adapterPieces, load) : load();
    },
    retryAfterMilliseconds: 30_000,
  });
  const loop = new EngineLoop({
    blocks,
    runner,
    adapters,
    vocabulary,
    contextLength,
    tokenBudget: o.tokenBudget ?? 32,
    maxRunning: o.maxRunning ?? 8,
    grammars: new GrammarStates(VOCAB),
    deliver: (batch) => {
      for (const [id, event] of batch) events.set(id, [...(events.get(id) ?? []), event]);
    },
  });
  let nextId = 1;
  const submit = (
    prompt: number[],
    sampling: Partial<WireSampling> = {},
    rest: Partial<GenerationRequest> = {},
  ) => {
    const id = nextId++;
    loop.submit({
      id,
      prompt: Int32Array.from(prompt),
      adapter: null,
      cacheSalt: 'test',
      sampling: { ...plainSampling, ...sampling },
      seed: 1,
      grammar: null,
      scorePrompt: null,
      ...rest,
    });
    return id;
  };
  const run = (): void => {
    for (let i = 0; loop.step(); i++) if (i > 10_000) throw new Error('the loop does not end');
  };
  const textOf = (id: number, index = 0): string =>
    (events.get(id) ?? []).map((e) => (e.type === 'delta' && e.index === index ? e.text : '')).join('');
  return { loop, blocks, runner, adapters, loaded, events, submit, run, textOf };
}

export const adapterNumber = (n: number | string) => ({
  modelId: `ft:${n}`,
  digest: `digest-${n}`,
  directory: typeof n === 'number' ? `adapter-${n}` : n,
});

/** The slow oracle: one sequence, whole context every time. */
export function naiveText(
  prompt: number[],
  sampling: Partial<WireSampling> = {},
  adapter = 0,
  seed = 1,
  choice = 0,
): string {
  const all = { ...plainSampling, ...sampling };
  const sampler = new Sampler(all, seed, choice);
  const tokens = [...prompt];
  const decoder = vocabulary.createDecoder();
  let text = '';
  for (let i = 0; i < (all.max_tokens ?? 1000); i++) {
    const sample = sampler.sample(fakeLogits(tokens, adapter));
    if (typeof sample === 'string') throw new Error(sample);
    if (sample.token === EOS) break;
    tokens.push(sample.token);
    text += decoder.push(sample.token);
  }
  return text + decoder.flush();
}
