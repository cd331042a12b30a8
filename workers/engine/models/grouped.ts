/**
 * The decoder over a paged cache with every group of linears in one call and an adapter per row, read from a pool: what
 * serving on a device runs, where the host must not wait and each call costs. Same decoder function as training.
 * Knows tensors; must not know who asked for a row.
 */
import { type PagedLayout, pagedAttention } from '../ops/attention.ts';
import { gatherRows } from '../ops/embedding.ts';
import { rmsNorm } from '../ops/norm.ts';
import type { RotaryTable } from '../ops/rotary.ts';
import type { AdapterPool } from '../peft/adapter-pool.ts';
import { Tensor } from '../tensor.ts';
import { decoderForward, type Strategy } from './decoder.ts';
import type { KvCache } from './kv-cache.ts';
import type { Model } from './model.ts';
import type { Linear } from './weights.ts';

/** The index tensors of a step; [T] new tokens of [S] sequences. */
export interface GroupedInputs {
  ids: Tensor;
  positions: Tensor;
  cuSeqlensQ: Tensor;
  contextLens: Tensor;
  blockTables: Tensor;
  /** Cache row of each new token. */
  slots: Tensor;
  /** Pool slot of each new token's adapter, −1 for the base model; null: all rows are the base model's. */
  adapterSlots: Tensor | null;
}

export interface GroupedStep {
  model: Model;
  cache: KvCache;
  pool: AdapterPool;
  rotary: RotaryTable;
}

/** Runs the new tokens and extends the cache; the residual stream of all rows, [T, C]. */
export function groupedHidden({ model, cache, pool, rotary }: GroupedStep, inputs: GroupedInputs): Tensor {
  const layout: PagedLayout = { ...inputs, blockSize: cache.blockSize };
  const strategy: Strategy = {
    linears: (_tape, x, layers) => linearGroup(x, layers, pool, inputs.adapterSlots),
    attend: (_tape, q, k, v, layer, shape) =>
      pagedAttention(q, k, v, cache.keys[layer]!, cache.values[layer]!, layout, shape),
  };
  const input = {
    ids: inputs.ids,
    positions: inputs.positions,
    rotary,
    activationDtype: model.activationDtype,
  };
  return decoderForward(model.config, model.weights, input, strategy, { tape: null });
}

/** The logits of `rows` (i32; null: all) of the residual stream into `logits` f32 [rows, V]. */
export function groupedLogits(model: Model, hidden: Tensor, rows: Tensor | null, logits: Tensor): void {
  const wanted = rows === null ? hidden : gatherRows(null, hidden, rows);
  const x = rmsNorm(null, wanted, model.weights.finalNorm, model.config.rmsNormEps);
  const w = storedWeight(model.weights.head);
  const { native } = model.device;
  native.linearGroup(
    logits.handle,
    null,
    null,
    x.handle,
    w.handle,
    null,
    null,
    null,
    null,
    null,
    null,
    null,
    null,
  );
}

/**
 * y_i = linear_i(x) for one to three linears that read one x, row t with the adapter in slot `adapterSlots`[t] of the
 * pool (−1, or null for all rows: the base model's). Weights are plain or, on the CPU, packed.
 */
export function linearGroup(
  x: Tensor,
  layers: readonly Linear[],
  pool: AdapterPool | null,
  adapterSlots: Tensor | null,
): Tensor[] {
  const y = layers.map(({ outFeatures }) => Tensor.empty(x.device, [x.dim(0), outFeatures], x.dtype));
  const weight = (i: number) => (layers[i] === undefined ? null : storedWeight(layers[i]).handle);
  const bias = (i: number) => layers[i]?.bias?.handle ?? null;
  const used = adapterSlots !== null && pool !== null && pool.pool !== null ? pool : null;
  x.device.native.linearGroup(
    y[0]!.handle,
    y[1]?.handle ?? null,
    y[2]?.handle ?? null,
    x.handle,
    weight(0)!,
    weight(1),
    weight(2),
    bias(0),
    bias(1),
    bias(2),
    used?.pool?.handle ?? null,
    used?.table(layers).handle ?? null,
    used && adapterSlots!.handle,
  );
  return y;
}

function storedWeight({ name, packed, weight }: Linear): Tensor {
  const stored = packed ?? weight;
  if (stored === null) throw new Error(`${name} has no weight`);
  return stored;
}

/** A step's index arrays on the host; see GroupedInputs. */
export interface GroupedRows {
  ids: Int32Array;
  positions: Int32Array;
  contextLens: Int32Array;
  blockTables: Int32Array;
  maxBlocks: number;
  slots: Int32Array;
  adapterSlots: Int32Array | null;
}

/**
 * Refuses indices that would read or write outside the model, the cache or the pool: a recorded step checks nothing.
 * `positions`: rows of the rotary table. @throws Error naming the first of them
 */
export function checkRows(rows: GroupedRows, { model, cache, pool }: GroupedStep, positions: number): void {
  const { blockSize } = cache;
  const within = (what: string, values: Int32Array, end: number, begin = 0) => {
    for (const value of values)
      if (value < begin || value >= end) throw new Error(`${what} ${value} is outside ${begin}..${end - 1}`);
  };
  within('token id', rows.ids, model.config.vocabSize);
  within('position', rows.positions, positions);
  within('cache row', rows.slots, cache.scratchRow);
  within('block', rows.blockTables, cache.blocks);
  within('context length', rows.contextLens, rows.maxBlocks * blockSize + 1, 1);
  if (rows.adapterSlots !== null) within('adapter slot', rows.adapterSlots, pool.slots, -1);
}
