// Rows of the op table for attention: packed sequences for training, the paged cache for serving.
import * as f64 from '../helpers/float64.ts';
import type { Random } from '../helpers/tolerance.ts';
import { cuSeqlens, type OpCase } from './ops.table.ts';

const WHY =
  'scores are dots of D terms, softmax and the weighted sum are convex: f32 keeps 1e-6; bf16 rounds scores’ inputs, P and out';

interface Variant {
  name: string;
  heads: [query: number, kv: number];
  headDim: number;
  window?: number;
  /** Sequences and longest sequence. */
  packing: [count: number, longest: number];
}

/** Values whose scores have deviation 1.5 after scaling: softmax neither flat nor one-hot. */
function queries(random: Random, n: number): Float64Array {
  return random.normals(n, 1.5);
}

function attention(variant: Variant): OpCase {
  const [Hq, Hkv] = variant.heads;
  const D = variant.headDim;
  return {
    name: `attention ${variant.name}`,
    covers: ['attentionForward', 'attentionBackward'],
    why: WHY,
    make(random) {
      const ends = cuSeqlens(random, ...variant.packing);
      const T = ends[ends.length - 1]!;
      const window = variant.window ?? 0;
      const shape = { queryHeads: Hq, kvHeads: Hkv, headDim: D, scale: 1 / Math.sqrt(D), window };
      const [qDims, kDims] = [
        [T, Hq * D],
        [T, Hkv * D],
      ];
      return {
        inputs: {
          q: { values: queries(random, T * Hq * D), dims: qDims, grad: true },
          k: { values: random.normals(T * Hkv * D), dims: kDims, grad: true },
          v: { values: random.normals(T * Hkv * D), dims: kDims, grad: true },
          ends: { values: Float64Array.from(ends), dims: [ends.length], dtype: 'i32' },
        },
        reference: ({ q, k, v }) => ({ ...f64.attention(shape, q!, k!, v!, ends) }),
        through: ['out'],
        probes: T > 100 ? 8 : 48,
        forward(bench, { q, k, v, ends: cu }) {
          const [out, lse] = [bench.empty(qDims), bench.empty([Hq, T], 'f32')];
          bench.native.attentionForward(out, lse, q!, k!, v!, cu!, D, shape.scale, window);
          return { out, lse };
        },
        backward(bench, { q, k, v, ends: cu }, { out, lse }, { out: dout }) {
          const [dq, dk, dv] = [bench.empty(qDims), bench.empty(kDims), bench.empty(kDims)];
          const { native } = bench;
          native.attentionBackward(dq, dk, dv, dout!, out!, lse!, q!, k!, v!, cu!, D, shape.scale, window);
          return { q: dq, k: dk, v: dv };
        },
      };
    },
  };
}

/** Cache layout of a batch: every sequence's blocks drawn from one pool in random order. */
function paging(random: Random, contextLens: number[], blockSize: number) {
  const needed = contextLens.map((length) => Math.ceil(length / blockSize));
  const maxBlocks = Math.max(...needed) + 1;
  const blocks = needed.reduce((a, b) => a + b, 0) + 3;
  const free = random.permutation(blocks);
  const tables = needed.map((count) => free.splice(0, count));
  const rows = blocks * blockSize;
  const rowOf = (n: number, j: number) =>
    tables[n]![Math.floor(j / blockSize)]! * blockSize + (j % blockSize);
  const padded = tables.flatMap((t) => [...t, ...new Array<number>(maxBlocks - t.length).fill(0)]);
  return { tables, padded, maxBlocks, rows, rowOf };
}

/**
 * A decode step, a chunk of a prefill and a whole prefill in one call. The keys and values reach the cache by kvWrite;
 * cache rows that belong to nobody are NaN, so reading one shows.
 */
function paged(headDim: number, window: number, blockSize: number): OpCase {
  const [Hq, Hkv, D] = [4, 2, headDim];
  return {
    name: `paged attention, head size ${D}, window ${window}, blocks of ${blockSize}`,
    covers: ['kvWrite', 'pagedAttentionForward'],
    why: WHY,
    make(random) {
      const contextLens = [random.integer(20, 45), random.integer(9, 30), random.integer(2, 40)];
      const news = [1, random.integer(2, 8), contextLens[2]!];
      const cu = [0, news[0]!, news[0]! + news[1]!, news[0]! + news[1]! + news[2]!];
      const T = cu[cu.length - 1]!;
      const layout = paging(random, contextLens, blockSize);
      const slots = contextLens.flatMap((length, n) => Array.from({ length }, (_, j) => layout.rowOf(n, j)));
      const total = slots.length;
      const shape = { queryHeads: Hq, kvHeads: Hkv, headDim: D, scale: 1 / Math.sqrt(D), window };
      const place = (values: Float64Array) => {
        const cache = new Float64Array(layout.rows * Hkv * D).fill(Number.NaN);
        slots.forEach((row, i) => {
          cache.set(values.subarray(i * Hkv * D, (i + 1) * Hkv * D), row * Hkv * D);
        });
        return cache;
      };
      return {
        inputs: {
          q: { values: queries(random, T * Hq * D), dims: [T, Hq * D] },
          k: { values: random.normals(total * Hkv * D), dims: [total, Hkv * D] },
          v: { values: random.normals(total * Hkv * D), dims: [total, Hkv * D] },
        },
        reference: ({ q, k, v }) => ({
          out: f64.pagedAttention(shape, q!, place(k!), place(v!), layout.tables, cu, contextLens, blockSize),
        }),
        forward(bench, { q, k, v }) {
          const out = bench.empty([T, Hq * D]);
          const [kCache, vCache] = [bench.empty([layout.rows, Hkv * D]), bench.empty([layout.rows, Hkv * D])];
          const tables = bench.upload(layout.padded, [contextLens.length, layout.maxBlocks], 'i32');
          const lens = bench.i32(contextLens);
          const { native } = bench;
          native.kvWrite(kCache, vCache, k!, v!, bench.i32(slots));
          native.pagedAttentionForward(
            out,
            q!,
            kCache,
            vCache,
            tables,
            bench.i32(cu),
            lens,
            blockSize,
            D,
            shape.scale,
            window,
          );
          return { out };
        },
      };
    },
  };
}

export const ATTENTION_CASES: OpCase[] = [
  attention({ name: 'grouped, head size 64', heads: [6, 2], headDim: 64, packing: [4, 14] }),
  attention({ name: 'one kv head, head size 128', heads: [3, 1], headDim: 128, packing: [3, 11] }),
  attention({ name: 'head size 20 (no multiple of 8)', heads: [4, 2], headDim: 20, packing: [5, 12] }),
  attention({ name: 'head size 14, odd half', heads: [2, 2], headDim: 14, packing: [2, 20] }),
  attention({ name: 'sliding window 5', heads: [4, 2], headDim: 24, window: 5, packing: [3, 25] }),
  attention({ name: 'longer than a tile', heads: [2, 1], headDim: 16, packing: [2, 200] }),
  attention({
    name: 'longer than a tile, window 70',
    heads: [2, 1],
    headDim: 16,
    window: 70,
    packing: [2, 200],
  }),
  paged(64, 0, 16),
  paged(128, 0, 8),
  paged(20, 11, 16),
];
