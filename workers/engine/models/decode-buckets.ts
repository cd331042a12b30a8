/**
 * Decode steps of a few fixed sizes: one new token for each of up to 64 sequences, padded to the next size, from input
 * buffers that stay in place. So a step can be recorded once per size and run again; adapters are data, not part of
 * what is recorded. Knows the grouped forward; must not know the scheduler.
 */
import { RecordedShapes, type Recorder, recorderOf } from '../graphs.ts';
import { keep, Tensor } from '../tensor.ts';
import {
  checkRows,
  type GroupedInputs,
  type GroupedRows,
  type GroupedStep,
  groupedHidden,
  groupedLogits,
} from './grouped.ts';

const DECODE_BUCKETS = [1, 2, 4, 8, 16, 24, 32, 48, 64] as const;
/** More rows than this are not padded or recorded. */
export const DECODE_ROWS_MAX = DECODE_BUCKETS.at(-1)!;
/** Rows of the cache that padded rows may write: as many as the largest gap between two sizes. */
export const SCRATCH_ROWS = Math.max(
  ...DECODE_BUCKETS.map((size, i) => size - (DECODE_BUCKETS[i - 1] ?? 0) - 1),
);
/** Shapes remembered. */
const SHAPES_MAX = 64;
/** Block tables have 2ⁿ columns, at least these. */
const COLUMNS_MIN = 16;
/** Buffers begin at multiples of so many bytes, as allocations do. */
const ALIGN = 256;

interface Shape {
  inputs: GroupedInputs;
  logits: Tensor;
  dispose(): void;
}

export interface DecodeBucketsOptions {
  /** Positions of a sequence at most. */
  contextLength: number;
  /** Sizes to pad to; false runs each step at its own size. */
  padded?: boolean;
  /** Rows of a step at most. */
  rowsMax?: number;
  /** The device's own unless given. */
  recorder?: Recorder | null;
}

export class DecodeBuckets {
  readonly #step: GroupedStep;
  readonly #padded: boolean;
  readonly #positions: number;
  readonly #rowsMax: number;
  readonly #numbers: Int32Array;
  /** All index tensors of a step end to end, so that one write fills them. */
  readonly #buffer: Tensor;
  readonly #logits: Tensor;
  readonly #shapes: RecordedShapes<Shape>;
  #generation = 0;

  /** @throws code LATHE_OUT_OF_MEMORY */
  constructor(step: GroupedStep, options: DecodeBucketsOptions) {
    const { contextLength, padded = true, rowsMax = DECODE_ROWS_MAX, recorder } = options;
    const { model, cache } = step;
    this.#step = step;
    this.#padded = padded;
    this.#positions = contextLength;
    this.#rowsMax = rowsMax;
    this.#shapes = new RecordedShapes(
      recorder === undefined ? recorderOf(model.device) : recorder,
      SHAPES_MAX,
    );
    if (cache.keys[0]!.dim(0) < cache.scratchRow + (padded ? SCRATCH_ROWS : 0))
      throw new Error('decode buckets: the cache has no rows for padding');
    const columns = columnsFor(Math.ceil(contextLength / cache.blockSize));
    this.#numbers = new Int32Array(bufferLayout(rowsMax, columns).end);
    this.#buffer = keep(Tensor.fromInt32(model.device, this.#numbers));
    try {
      this.#logits = keep(Tensor.empty(model.device, [rowsMax, model.config.vocabSize], 'f32'));
    } catch (error) {
      this.#buffer.dispose();
      throw error;
    }
  }

  /** Recorded steps there are now. */
  get recorded(): number {
    return this.#shapes.recorded;
  }

  /**
   * Runs one new token of each sequence and extends the cache; logits f32 [rows, V], the caller's to change, until the
   * next call. @throws Error for more than rowsMax rows or indices out of range
   */
  run(rows: GroupedRows): Tensor {
    const count = rows.ids.length;
    const { model, pool } = this.#step;
    checkRows(rows, this.#step, this.#positions);
    const size = this.#padded ? DECODE_BUCKETS.find((bucket) => bucket >= count) : count;
    if (size === undefined || size > this.#rowsMax || count === 0)
      throw new Error(`a decode step of ${count} rows`);
    if (pool.generation !== this.#generation) {
      this.#shapes.forget();
      this.#generation = pool.generation;
    }
    const columns = columnsFor(rows.maxBlocks);
    const adapters = rows.adapterSlots !== null;
    this.#write(rows, size, columns);
    const shape = this.#shapes.run(
      `${size} ${columns} ${adapters ? 'adapters' : 'base'}`,
      () => this.#create(size, columns, adapters),
      ({ inputs, logits }) => groupedLogits(model, groupedHidden(this.#step, inputs), null, logits),
    );
    return shape.logits.rows(0, count);
  }

  dispose(): void {
    this.#shapes.forget();
    this.#buffer.dispose();
    this.#logits.dispose();
  }

  #create(size: number, columns: number, adapters: boolean): Shape {
    const at = bufferLayout(size, columns);
    const views: Tensor[] = [];
    const view = (start: number, length: number) => {
      views.push(keep(this.#buffer.rows(start, start + length)));
      return views.at(-1)!;
    };
    const table = view(at.blockTables, size * columns);
    views.push(keep(table.reshape([size, columns])));
    const blockTables = views.at(-1)!;
    const logits = keep(this.#logits.rows(0, size));
    views.push(logits);
    return {
      inputs: {
        ids: view(at.ids, size),
        positions: view(at.positions, size),
        cuSeqlensQ: view(at.cuSeqlensQ, size + 1),
        contextLens: view(at.contextLens, size),
        slots: view(at.slots, size),
        blockTables,
        adapterSlots: adapters ? view(at.adapterSlots, size) : null,
      },
      logits,
      dispose: () => {
        for (const tensor of views) tensor.dispose();
      },
    };
  }

  /** Padded rows read and write the cache's scratch rows alone, each its own. */
  #write(rows: GroupedRows, size: number, columns: number): void {
    const { cache, model } = this.#step;
    const count = rows.ids.length;
    const at = bufferLayout(size, columns);
    const numbers = this.#numbers.subarray(0, at.end).fill(0);
    numbers.set(rows.ids, at.ids);
    numbers.set(rows.positions, at.positions);
    numbers.set(rows.contextLens, at.contextLens);
    numbers.set(rows.slots, at.slots);
    numbers.fill(-1, at.adapterSlots, at.adapterSlots + size);
    if (rows.adapterSlots) numbers.set(rows.adapterSlots, at.adapterSlots);
    for (let s = 0; s <= size; s++) numbers[at.cuSeqlensQ + s] = s;
    for (let s = 0; s < count; s++) {
      const table = rows.blockTables.subarray(s * rows.maxBlocks, (s + 1) * rows.maxBlocks);
      numbers.set(table, at.blockTables + s * columns);
    }
    for (let s = count; s < size; s++) {
      const row = cache.scratchRow + s - count;
      numbers[at.contextLens + s] = 1;
      numbers[at.slots + s] = row;
      numbers[at.blockTables + s * columns] = Math.floor(row / cache.blockSize);
    }
    model.device.native.tensorWrite(this.#buffer.handle, numbers);
  }
}

function columnsFor(blocks: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(COLUMNS_MIN, blocks)));
}

/** Where each index tensor of a step begins in the buffer, in elements. */
function bufferLayout(size: number, columns: number) {
  let end = 0;
  const place = (elements: number) => {
    const start = end;
    end += Math.ceil((4 * elements) / ALIGN) * (ALIGN / 4);
    return start;
  };
  const [ids, positions, cuSeqlensQ] = [place(size), place(size), place(size + 1)];
  const [contextLens, slots, adapterSlots] = [place(size), place(size), place(size)];
  const blockTables = place(size * columns);
  return { ids, positions, cuSeqlensQ, contextLens, slots, adapterSlots, blockTables, end };
}
