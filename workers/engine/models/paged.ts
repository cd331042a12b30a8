/**
 * The decoder over a paged key/value cache, for serving: a batch mixes prefill and decode tokens of many sequences, and
 * each range of rows may use its own adapter. Same decoder function as training; see decoder.ts.
 */
import { type PagedLayout, pagedAttention } from '../ops/attention.ts';
import { gatherRows } from '../ops/embedding.ts';
import { addLowRank, linear, linearPacked } from '../ops/linear.ts';
import { rmsNorm } from '../ops/norm.ts';
import type { LoraAdapter } from '../peft/lora.ts';
import { scope, Tensor } from '../tensor.ts';
import { decoderForward, type Strategy } from './decoder.ts';
import type { KvCache } from './kv-cache.ts';
import type { Model } from './model.ts';
import { positionCount } from './rope-table.ts';
import type { Linear } from './weights.ts';

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

/** Runs the new tokens, extends the cache, and returns logits [logitRows.length, V] in f32. */
export function pagedLogits(model: Model, batch: PagedBatch, cache: KvCache): Float32Array {
  checkRanges(batch);
  return scope(() => {
    const { device, config } = model;
    const sequences = batch.contextLens.length;
    const layout: PagedLayout = {
      blockTables: Tensor.fromInt32(device, batch.blockTables, [sequences, batch.maxBlocks]),
      cuSeqlensQ: Tensor.fromInt32(device, batch.cuSeqlensQ),
      contextLens: Tensor.fromInt32(device, batch.contextLens),
      slots: Tensor.fromInt32(device, batch.slots),
      blockSize: cache.blockSize,
    };
    const strategy: Strategy = {
      linear: (_tape, x, layer) => linearWithAdapters(x, layer, batch.adapters),
      attend: (_tape, q, k, v, layer, shape) =>
        pagedAttention(q, k, v, cache.keys[layer]!, cache.values[layer]!, layout, shape),
    };
    const input = {
      ids: Tensor.fromInt32(device, batch.ids),
      positions: Tensor.fromInt32(device, batch.positions),
      rotary: model.rope.covering(positionCount(batch.positions)),
      activationDtype: model.activationDtype,
    };
    const hidden = decoderForward(config, model.weights, input, strategy, { tape: null });
    const wanted = gatherRows(null, hidden, Tensor.fromInt32(device, batch.logitRows));
    return headLogits(model, rmsNorm(null, wanted, model.weights.finalNorm, config.rmsNormEps));
  });
}

function headLogits(model: Model, x: Tensor): Float32Array {
  const { head } = model.weights;
  const logits = Tensor.empty(model.device, [x.dim(0), model.config.vocabSize], 'f32');
  const { native } = model.device;
  if (head.packed !== null) native.gemmPacked(logits.handle, x.handle, head.packed.handle, 1, 0);
  else native.gemm(logits.handle, x.handle, head.weight!.handle, false, true, 1, 0);
  return logits.toFloat32();
}

/** One product with the shared weight for all rows, then each range's low-rank branch on its own rows. */
function linearWithAdapters(x: Tensor, layer: Linear, ranges: readonly AdapterRange[]): Tensor {
  const y =
    layer.packed === null
      ? linear(null, x, layer.weight!, layer.bias, null)
      : linearPacked(x, layer.packed, layer.outFeatures, layer.bias);
  for (const { adapter, start, end } of ranges) {
    const branch = adapter?.branch(layer.index) ?? null;
    if (branch !== null && end > start) addLowRank(y.rows(start, end), x.rows(start, end), branch);
  }
  return y;
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
