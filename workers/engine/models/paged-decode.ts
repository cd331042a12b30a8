/**
 * Decode steps of the paged forward, recorded: a batch of one new token for each of a few sequences asks for the same ops
 * every time, and asking costs a tenth of a step. Knows the grouped forward; must not know the scheduler.
 */
import type { RotaryTable } from '../ops/rotary.ts';
import type { AdapterPool } from '../peft/adapter-pool.ts';
import { scope } from '../tensor.ts';
import { DecodeBuckets } from './decode-buckets.ts';
import type { KvCache } from './kv-cache.ts';
import type { Model } from './model.ts';
import type { PagedBatch } from './paged.ts';
import { positionCount } from './rope-table.ts';

/** With more rows the products take so long that asking does not show. */
export const RECORDED_ROWS_MAX = 16;

/** Whether every sequence has one new token whose logits are wanted, and there are few of them. */
export function isDecodeStep({ ids, cuSeqlensQ, logitRows }: PagedBatch): boolean {
  const rows = ids.length;
  if (rows === 0 || rows > RECORDED_ROWS_MAX || cuSeqlensQ.length !== rows + 1) return false;
  return logitRows.length === rows && logitRows.every((row, i) => row === i && cuSeqlensQ[i] === i);
}

export class PagedDecoder {
  readonly #model: Model;
  readonly #cache: KvCache;
  readonly #pool: AdapterPool;
  #steps: DecodeBuckets | null = null;
  /** What the recorded steps read their angles from. */
  #rotary: RotaryTable | null = null;

  /** Takes no memory before the first step. */
  constructor(model: Model, cache: KvCache, pool: AdapterPool) {
    this.#model = model;
    this.#cache = cache;
    this.#pool = pool;
  }

  /**
   * Runs a decode step (see isDecodeStep) and extends the cache; logits [rows, V]. `adapterSlots`: the pool slot of each
   * row's adapter, null when all rows are the base model's. @throws code LATHE_OUT_OF_MEMORY
   */
  logits(batch: PagedBatch, adapterSlots: Int32Array | null): Float32Array {
    const steps = this.#stepsFor(positionCount(batch.positions));
    return scope(() => steps.run({ ...batch, adapterSlots }).toFloat32());
  }

  dispose(): void {
    this.#steps?.dispose();
    this.#steps = null;
  }

  #stepsFor(positions: number): DecodeBuckets {
    const [model, cache] = [this.#model, this.#cache];
    const rotary = model.rope.covering(positions);
    if (this.#steps !== null && rotary === this.#rotary) return this.#steps;
    this.dispose();
    this.#rotary = rotary;
    this.#steps = new DecodeBuckets(
      { model, cache, pool: this.#pool, rotary },
      { contextLength: cache.blocks * cache.blockSize, padded: false, rowsMax: RECORDED_ROWS_MAX },
    );
    return this.#steps;
  }
}
