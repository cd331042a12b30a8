/**
 * The decoder over a paged key/value cache, for serving: a batch mixes prefill and decode tokens of many sequences, and
 * each range of rows may use its own adapter. Same decoder function as training; see decoder.ts.
 */
import { type PagedLayout, pagedAttention } from '../ops/attention.ts';
import { gatherRows } from '../ops/embedding.ts';
import { rmsNorm } from '../ops/norm.ts';
import { AdapterPool } from '../peft/adapter-pool.ts';
import type { LoraAdapter } from '../peft/lora.ts';
import { scope, Tensor } from '../tensor.ts';
import { decoderForward, type Strategy } from './decoder.ts';
import { linearGroup } from './grouped.ts';
import type { KvCache } from './kv-cache.ts';
import type { Model } from './model.ts';
import { isDecodeStep, PagedDecoder } from './paged-decode.ts';
import { positionCount } from './rope-table.ts';

export { KvCache } from './kv-cache.ts';

/** Rows [start, end) of the batch use `adapter`, or the base model when null. */
export interface AdapterRange {
  adapter: LoraAdapter | null;
  start: number;
  end: number;
}

export interface PagedBatch {
  /** New tokens of all sequences end to end, [T]. */
  ids: Int32Array;
  positions: Int32Array;
  /** Bounds of each sequence's new tokens, [S+1]. */
  cuSeqlensQ: Int32Array;
  /** Tokens of each sequence, the new ones included, [S]. */
  contextLens: Int32Array;
  /** Block numbers, row-major [S, maxBlocks]; unused entries may hold any valid block. */
  blockTables: Int32Array;
  maxBlocks: number;
  /** Cache row of each new token: block·blockSize + offset, [T]. */
  slots: Int32Array;
  /** Rows whose logits are wanted. */
  logitRows: Int32Array;
  /** Cover [0, T) in order. */
  adapters: AdapterRange[];
}

/** A batch's index arrays on the device, in the shapes of PagedBatch. */
interface PagedInputs {
  ids: Tensor;
  positions: Tensor;
  cuSeqlensQ: Tensor;
  contextLens: Tensor;
  blockTables: Tensor;
  slots: Tensor;
  logitRows: Tensor;
}

/** Runs the new tokens, extends the cache, and returns logits [logitRows.length, V] in f32. */
export function pagedLogits(model: Model, batch: PagedBatch, cache: KvCache): Float32Array {
  checkRanges(batch);
  const adapters = [...new Set(batch.adapters.flatMap(({ adapter }) => (adapter ? [adapter] : [])))];
  const isDecode = isDecodeStep(batch);
  const beside = isDecode || adapters.length > 0 ? besideCache(model, cache, adapters.length) : null;
  const adapterSlots = beside && slotsOfRows(batch, adapters, beside.pool);
  if (beside !== null && isDecode) return beside.decoder.logits(batch, adapterSlots);
  return scope(() => {
    const { device, config } = model;
    const inputs: PagedInputs = {
      ids: Tensor.fromInt32(device, batch.ids),
      positions: Tensor.fromInt32(device, batch.positions),
      cuSeqlensQ: Tensor.fromInt32(device, batch.cuSeqlensQ),
      contextLens: Tensor.fromInt32(device, batch.contextLens),
      blockTables: Tensor.fromInt32(device, batch.blockTables, [batch.contextLens.length, batch.maxBlocks]),
      slots: Tensor.fromInt32(device, batch.slots),
      logitRows: Tensor.fromInt32(device, batch.logitRows),
    };
    const logits = Tensor.empty(device, [batch.logitRows.length, config.vocabSize], 'f32');
    const linears = pooledLinears(model, batch, beside?.pool ?? null, adapterSlots);
    runPaged(model, inputs, cache, positionCount(batch.positions), logits, linears);
    return logits.toFloat32();
  });
}

/** What batches over one cache share: the pool of adapters that they read, and recorded steps, which read it too. */
interface BesideCache {
  pool: AdapterPool;
  decoder: PagedDecoder;
  dispose(): void;
}

/** Fewest adapters that the pool beside a cache holds; a batch with more of them doubles it. */
const POOL_SLOTS_MIN = 16;
const besideCaches = new WeakMap<KvCache, BesideCache>();

function besideCache(model: Model, cache: KvCache, adapters: number): BesideCache {
  const known = besideCaches.get(cache);
  if (known !== undefined && adapters <= known.pool.slots) return known;
  let slots = known?.pool.slots ?? POOL_SLOTS_MIN;
  while (slots < adapters) slots *= 2;
  // Adapters are rounded as the weights beside them: every row reads its own, which costs as much as it has bytes.
  const pool = new AdapterPool(model, { slots, maxBytes: Number.POSITIVE_INFINITY, dtype: model.dtype });
  const decoder = new PagedDecoder(model, cache, pool);
  const dispose = () => {
    decoder.dispose();
    pool.dispose();
  };
  const made = { pool, decoder, dispose };
  known?.dispose();
  cache.companions.splice(
    0,
    cache.companions.length,
    ...cache.companions.filter((other) => other !== known),
    made,
  );
  besideCaches.set(cache, made);
  return made;
}

/**
 * The pool slot of each row's adapter, −1 for the base model; null when all rows are the base model's.
 * @throws code LATHE_OUT_OF_MEMORY when the pool cannot hold the batch's adapters
 */
function slotsOfRows(batch: PagedBatch, adapters: LoraAdapter[], pool: AdapterPool): Int32Array | null {
  if (adapters.length === 0) return null;
  const slotOf = new Map(pool.slotsOf(adapters).map((slot, i) => [adapters[i]!, slot]));
  const slots = new Int32Array(batch.ids.length);
  for (const { adapter, start, end } of batch.adapters)
    slots.fill(adapter ? slotOf.get(adapter)! : -1, start, end);
  return slots;
}

/**
 * Linears in groups, every row with its adapter from the pool. Where only some rows are run (the last block's, of which
 * logits are wanted), those are the batch's logitRows.
 */
function pooledLinears(
  model: Model,
  batch: PagedBatch,
  pool: AdapterPool | null,
  slots: Int32Array | null,
): Strategy['linears'] {
  if (slots === null) return (_tape, x, layers) => linearGroup(x, layers, null, null);
  const all = Tensor.fromInt32(model.device, slots);
  const wanted = Tensor.fromInt32(
    model.device,
    batch.logitRows.map((row) => slots[row]!),
  );
  return (_tape, x, layers) => linearGroup(x, layers, pool, x.dim(0) === slots.length ? all : wanted);
}

/** The forward over given inputs into given logits. `positions` is more than the highest position. */
function runPaged(
  model: Model,
  inputs: PagedInputs,
  cache: KvCache,
  positions: number,
  logits: Tensor,
  linears: Strategy['linears'],
): void {
  const { config } = model;
  const total = inputs.ids.dim(0);
  // Of the last block, only these rows' results are wanted.
  const rows = logits.dim(0) > 0 && logits.dim(0) < total ? inputs.logitRows : undefined;
  const layout: PagedLayout = { ...inputs, blockSize: cache.blockSize };
  const strategy: Strategy = {
    linears,
    attend: (_tape, q, k, v, layer, shape) =>
      pagedAttention(q, k, v, cache.keys[layer]!, cache.values[layer]!, layout, shape),
  };
  const input = {
    ids: inputs.ids,
    positions: inputs.positions,
    rotary: model.rope.covering(positions),
    activationDtype: model.activationDtype,
    rows,
  };
  const hidden = decoderForward(config, model.weights, input, strategy, { tape: null });
  const wanted = rows ? hidden : gatherRows(null, hidden, inputs.logitRows);
  const x = rmsNorm(null, wanted, model.weights.finalNorm, config.rmsNormEps);
  const { head } = model.weights;
  const { native } = model.device;
  if (head.packed !== null) native.gemmPacked(logits.handle, x.handle, head.packed.handle, 1, 0);
  else native.gemm(logits.handle, x.handle, head.weight!.handle, false, true, 1, 0);
}

function checkRanges(batch: PagedBatch): void {
  let next = 0;
  for (const { start, end } of batch.adapters) {
    if (start !== next || end < start)
      throw new Error(`adapter range ${start}..${end} should begin at row ${next}`);
    next = end;
  }
  if (next !== batch.ids.length) throw new Error(`adapter ranges cover ${next} of ${batch.ids.length} rows`);
}
