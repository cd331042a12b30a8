/**
 * One step of the model over many sequences: lays their tokens end to end with each adapter's rows together, runs the
 * paged forward, samples. Knows batches, the model and its cache; must not know the queue or who asked.
 */
import type { KvCache, Model, PagedBatch } from '../engine/models/index.ts';
import type { LoraAdapter } from '../engine/peft/lora.ts';
import type { NoSample, Sample } from './sample.ts';
import type { Sampler } from './sampling.ts';

/** Tokens of one sequence to run in this step. */
export interface RunItem<A> {
  /** The tokens themselves, at positions start, start + 1, … */
  tokens: Int32Array;
  start: number;
  /** Block table of the sequence; covers position start + tokens.length - 1. */
  blocks: readonly number[];
  /** Items with equal keys run through one adapter; null is the base model. */
  adapterKey: string | null;
  adapter: A | null;
  /** Set when the last token's logits are to be sampled. */
  sampler: Sampler | null;
  /** Set when the logits of every token are wanted: called with each token's position. */
  score: ((position: number, logits: Float32Array) => void) | null;
}

export interface Runner<A> {
  /** Whether the device computes while the host does other things; run() then calls `meanwhile`. */
  readonly worksAhead: boolean;
  /**
   * Runs all items in one step; the sample of each item, or null where none was asked for. `meanwhile`: what the host
   * may do while the device computes; called once the step is under way, at most once, and not where nobody waits.
   * @throws with code LATHE_OUT_OF_MEMORY when the step does not fit; it can be run again in parts then.
   */
  run(items: readonly RunItem<A>[], meanwhile?: () => void): (Sample | NoSample | null)[];
  /** Gives unused memory back. */
  trim(): void;
}

export class ModelRunner implements Runner<LoraAdapter> {
  readonly worksAhead = false;
  readonly #model: Model;
  readonly #cache: KvCache;
  readonly #vocabSize: number;

  /** `vocabSize`: only the first so many logits are sampled from. */
  constructor(model: Model, cache: KvCache, vocabSize: number) {
    this.#model = model;
    this.#cache = cache;
    this.#vocabSize = vocabSize;
  }

  trim(): void {
    this.#model.device.native.trim();
  }

  run(items: readonly RunItem<LoraAdapter>[]): (Sample | NoSample | null)[] {
    const order = byAdapter(items);
    const batch = layOut(items, order, this.#cache.blockSize);
    const logits = this.#model.forwardPaged(batch, this.#cache);
    const samples = new Array<Sample | NoSample | null>(items.length).fill(null);
    const stride = this.#model.config.vocabSize;
    let row = 0;
    for (const index of order) {
      const { sampler, score, start, tokens } = items[index]!;
      for (let i = score ? 0 : tokens.length - 1; i < tokens.length; i++) {
        const last = i === tokens.length - 1;
        if (!score && !sampler) continue;
        const found = logits.subarray(row * stride, row * stride + this.#vocabSize);
        row++;
        score?.(start + i, found);
        if (last && sampler) samples[index] = sampler.sample(found);
      }
    }
    return samples;
  }
}

/** Item numbers with equal adapters next to each other, otherwise in the given order. */
export function byAdapter(items: readonly RunItem<unknown>[]): number[] {
  const groups = new Map<string | null, number[]>();
  items.forEach(({ adapterKey }, index) => {
    const group = groups.get(adapterKey);
    if (group) group.push(index);
    else groups.set(adapterKey, [index]);
  });
  return [...groups.values()].flat();
}

/** The packed batch of `items` in `order`; slot = row of the cache = block · blockSize + offset. */
export function layOut<A>(
  items: readonly RunItem<A>[],
  order: readonly number[],
  blockSize: number,
): Omit<PagedBatch, 'adapters'> & { adapters: { adapter: A | null; start: number; end: number }[] } {
  const total = items.reduce((sum, item) => sum + item.tokens.length, 0);
  const maxBlocks = items.reduce((most, item) => Math.max(most, item.blocks.length), 1);
  const ids = new Int32Array(total);
  const positions = new Int32Array(total);
  const slots = new Int32Array(total);
  const cuSeqlensQ = new Int32Array(items.length + 1);
  const contextLens = new Int32Array(items.length);
  const blockTables = new Int32Array(items.length * maxBlocks);
  const logitRows: number[] = [];
  const adapters: { adapter: A | null; start: number; end: number }[] = [];
  let at = 0;
  let lastKey: string | null | undefined;
  order.forEach((index, s) => {
    const { tokens, start, blocks, adapterKey, adapter, sampler, score } = items[index]!;
    if (adapterKey === lastKey) adapters.at(-1)!.end = at + tokens.length;
    else adapters.push({ adapter, start: at, end: at + tokens.length });
    lastKey = adapterKey;
    ids.set(tokens, at);
    for (let i = 0; i < tokens.length; i++) {
      const position = start + i;
      positions[at + i] = position;
      slots[at + i] = blocks[Math.floor(position / blockSize)]! * blockSize + (position % blockSize);
    }
    blockTables.set(blocks, s * maxBlocks);
    at += tokens.length;
    cuSeqlensQ[s + 1] = at;
    contextLens[s] = start + tokens.length;
    if (score) for (let row = at - tokens.length; row < at; row++) logitRows.push(row);
    else if (sampler) logitRows.push(at - 1);
  });
  return {
    ids,
    positions,
    slots,
    cuSeqlensQ,
    contextLens,
    blockTables,
    maxBlocks,
    logitRows: Int32Array.from(logitRows),
    adapters,
  };
}
