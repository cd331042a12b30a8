/**
 * The attention, decoding, loss and sampling ops one by one at Qwen3-4B's shapes (on a CPU: small ones), each beside the
 * floor that this run's own ceilings give: a large bf16 product and a copy. Weights rotate so that no cache holds them;
 * on CUDA the calls of one measurement are recorded once and replayed, so launch gaps stay out of the figures.
 */
import { type Device, type Handle, openDevice } from '../workers/engine/device.ts';
import { KernelBench } from './kernel-bench.ts';
import { options, round } from './options.ts';

interface Sizes {
  queryHeads: number;
  kvHeads: number;
  headDim: number;
  hidden: number;
  ffn: number;
  vocabulary: number;
  tokens: number;
  length: number;
  context: number;
  streams: number;
  product: number;
  copyBytes: number;
  /** Weights that a linear group rotates among, in bytes at least. */
  rotateBytes: number;
}

const SIZES: Record<Device['kind'], Sizes> = {
  cuda: {
    ...{ queryHeads: 32, kvHeads: 8, headDim: 128, hidden: 2560, ffn: 9728, vocabulary: 151_936 },
    ...{ tokens: 8192, length: 2048, context: 2048, streams: 32 },
    ...{ product: 8192, copyBytes: 2 ** 30, rotateBytes: 2 ** 28 },
  },
  cpu: {
    ...{ queryHeads: 4, kvHeads: 2, headDim: 64, hidden: 256, ffn: 704, vocabulary: 2048 },
    ...{ tokens: 512, length: 128, context: 256, streams: 4 },
    ...{ product: 512, copyBytes: 2 ** 24, rotateBytes: 2 ** 22 },
  },
};

const RANK = 8;

type Figures = Record<string, number>;
/** Pool, table and slots of a linear group. */
type LowRank = [Handle, Handle, Handle] | [null, null, null];

function ceilings(b: KernelBench, s: Sizes): { flops: number; bytes: number } {
  const n = s.product;
  const [x, w, y] = [b.random([n, n]), b.random([n, n]), b.empty([n, n])];
  const product = b.seconds(() => b.device.native.gemm(y.handle, x.handle, w.handle, false, true, 1, 0), 4);
  const [from, to] = [b.random([s.copyBytes / 2]), b.empty([s.copyBytes / 2])];
  const copy = b.seconds(() => b.device.native.copy(to.handle, from.handle), 4);
  return { flops: (2 * n ** 3) / product, bytes: (2 * s.copyBytes) / copy };
}

/** Forward and backward of packed causal attention: 4·S/2·Hq·D operations a token forward, 2.5 times that back. */
function attention(b: KernelBench, s: Sizes, flops: number): Figures {
  const { native } = b.device;
  const { tokens: T, length, headDim: D } = s;
  const [wide, narrow] = [
    [T, s.queryHeads * D],
    [T, s.kvHeads * D],
  ];
  const [q, k, v, dout] = [b.random(wide), b.random(narrow), b.random(narrow), b.random(wide)];
  const [out, dq, dk, dv] = [b.empty(wide), b.empty(wide), b.empty(narrow), b.empty(narrow)];
  const lse = b.empty([s.queryHeads, T], 'f32');
  const cu = b.ints(Array.from({ length: T / length + 1 }, (_, i) => i * length));
  const [inputs, rest] = [[q.handle, k.handle, v.handle, cu.handle] as const, [D, D ** -0.5, 0] as const];
  const forward = b.seconds(() => native.attentionForward(out.handle, lse.handle, ...inputs, ...rest), 2);
  const gradients = [dq.handle, dk.handle, dv.handle, dout.handle, out.handle, lse.handle] as const;
  const backward = b.seconds(() => native.attentionBackward(...gradients, ...inputs, ...rest), 2);
  const operations = 2 * T * length * s.queryHeads * D;
  return {
    attention_forward_tflops: round(operations / forward / 1e12),
    attention_forward_ratio: round(operations / forward / flops),
    attention_backward_tflops: round((2.5 * operations) / backward / 1e12),
    attention_backward_ratio: round((2.5 * operations) / backward / flops),
  };
}

/** One new token of every stream over its whole context. */
function decodeAttention(b: KernelBench, s: Sizes, bytes: number): Figures {
  const { native } = b.device;
  const { streams: S, context, headDim: D } = s;
  const [blockSize, width] = [16, s.kvHeads * D];
  const blocks = Math.ceil(context / blockSize);
  const [kCache, vCache] = [b.random([S * context, width]), b.random([S * context, width])];
  const [q, out] = [b.random([S, s.queryHeads * D]), b.empty([S, s.queryHeads * D])];
  const tables = b.ints(
    Array.from({ length: S * blocks }, (_, i) => i),
    [S, blocks],
  );
  const bounds = b.ints(Array.from({ length: S + 1 }, (_, i) => i));
  const contexts = b.ints(new Array<number>(S).fill(context));
  const caches = [kCache.handle, vCache.handle, tables.handle, bounds.handle, contexts.handle] as const;
  const call = () =>
    native.pagedAttentionForward(out.handle, q.handle, ...caches, blockSize, D, D ** -0.5, 0);
  const time = b.seconds(call, 4);
  const read = kCache.bytes + vCache.bytes;
  return {
    attention_decode_gb_per_second: round(read / time / 1e9),
    attention_decode_ratio: round(read / time / bytes),
  };
}

/** Linear groups of one layer at several batch sizes, on the base and with an adapter for every row. */
function linearGroups(b: KernelBench, s: Sizes, bytes: number): Figures {
  const [heads, kv] = [s.queryHeads * s.headDim, s.kvHeads * s.headDim];
  const groups: [string, number, number[]][] = [
    ['qkv', s.hidden, [heads, kv, kv]],
    ['o', heads, [s.hidden]],
    ['gate_up', s.hidden, [s.ffn, s.ffn]],
    ['down', s.ffn, [s.hidden]],
  ];
  const figures: Figures = {};
  for (const rows of [1, 8, s.streams]) {
    let [base, adapted, read] = [0, 0, 0];
    for (const [name, depth, widths] of groups) {
      const once = widths.reduce((sum, n) => sum + n * depth * 2, 0);
      const time = linearGroup(b, rows, depth, widths, Math.ceil(s.rotateBytes / once));
      base += time.base;
      adapted += time.adapted;
      read += once;
      if (rows === s.streams) figures[`linear_${name}_ratio`] = round(once / time.base / bytes);
    }
    // A copy moves every byte twice; its rate counts both, as the floor of a read does.
    figures[`linear_${rows}_rows_ratio`] = round(read / base / bytes);
    figures[`linear_${rows}_rows_adapters_to_base`] = round(adapted / base);
  }
  return figures;
}

function linearGroup(b: KernelBench, rows: number, depth: number, widths: number[], copies: number) {
  const inner = new KernelBench(b.device);
  const { native } = b.device;
  const x = inner.random([rows, depth]);
  const ys = widths.map((n) => inner.empty([rows, n]));
  const weights = Array.from({ length: copies }, () =>
    widths.map((n) => inner.random([n, depth], 'bf16', depth ** -0.5)),
  );
  const scale = new Int32Array(Float32Array.of(1).buffer)[0]!;
  const table: number[] = [];
  let at = 0;
  for (let slot = 0; slot < rows; slot++) {
    for (const n of widths) {
      table.push(at / 8, (at + RANK * depth) / 8, RANK, scale);
      at += RANK * (depth + n);
    }
  }
  const pool = inner.random([at], 'bf16', 0.02);
  const entries = inner.ints(table, [rows, widths.length, 4]);
  const slots = inner.ints(Array.from({ length: rows }, (_, i) => i));
  const call = (i: number, adapters: boolean) => {
    const [w0, w1, w2] = weights[i % copies]!.map((w) => w.handle);
    const [y0, y1, y2] = ys.map((y) => y.handle);
    const low: LowRank = adapters ? [pool.handle, entries.handle, slots.handle] : [null, null, null];
    const given = [x.handle, w0!, w1 ?? null, w2 ?? null, null, null, null] as const;
    native.linearGroup(y0!, y1 ?? null, y2 ?? null, ...given, low[0], low[1], low[2]);
  };
  const times = Math.max(copies, 4);
  const base = inner.seconds((i) => call(i, false), times);
  const adapted = inner.seconds((i) => call(i, true), times);
  inner.close();
  return { base, adapted };
}

/** Head and loss with the gradient of x: 4·N·V·C operations. */
function loss(b: KernelBench, s: Sizes, flops: number): Figures {
  const { native } = b.device;
  const [N, C, V] = [s.tokens / 8, s.hidden, s.vocabulary];
  const [x, w, dx] = [b.random([N, C]), b.random([V, C], 'bf16', C ** -0.5), b.empty([N, C])];
  const [losses, correct] = [b.empty([N], 'f32'), b.empty([N], 'i32')];
  const targets = b.ints(Array.from({ length: N }, (_, i) => (i * 7919) % V));
  const outputs = [losses.handle, correct.handle, dx.handle, null] as const;
  const call = () => native.linearCrossEntropy(...outputs, x.handle, w.handle, targets.handle, null, 1 / N);
  const time = b.seconds(call, 2);
  const operations = 4 * N * V * C;
  return { loss_tflops: round(operations / time / 1e12), loss_ratio: round(operations / time / flops) };
}

function sampling(b: KernelBench, s: Sizes): Figures {
  const { native } = b.device;
  const [N, V] = [s.streams, s.vocabulary];
  const [logits, tokens] = [b.random([N, V], 'f32', 3), b.empty([N], 'i32')];
  const figures: Figures = {};
  for (const [name, temperature, topP] of [
    ['greedy', 0, 1],
    ['plain', 1, 1],
    ['nucleus', 0.7, 0.9],
  ] as const) {
    const rows = Array.from({ length: N }, (_, i) => i);
    const settings = b.floats(
      rows.flatMap(() => [temperature, topP, 0, 0]),
      [N, 4],
    );
    const ints = b.ints(
      rows.flatMap((i) => [0, 1, 0, i, 0, 0, -1, -1]),
      [N, 8],
    );
    const none = [null, null, null, null, null] as const;
    const call = () =>
      native.sampleTokens(tokens.handle, null, null, logits.handle, settings.handle, ints.handle, ...none, V);
    figures[`sampling_${name}_microseconds`] = round(b.seconds(call, 4) * 1e6);
  }
  return figures;
}

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const o = options(args, { device: 'auto' });
  if (o.device !== 'auto' && o.device !== 'cpu' && o.device !== 'cuda')
    throw new Error(`--device wants auto, cpu or cuda, got ${o.device}`);
  const device = openDevice({ kind: o.device });
  const sizes = SIZES[device.kind];
  const bench = new KernelBench(device);
  const part = <T>(work: () => T): T => {
    try {
      return work();
    } finally {
      bench.close();
    }
  };
  const { flops, bytes } = part(() => ceilings(bench, sizes));
  return {
    device: device.name,
    ceiling_tflops: round(flops / 1e12),
    ceiling_copy_gb_per_second: round(bytes / 1e9),
    ...part(() => attention(bench, sizes, flops)),
    ...part(() => decodeAttention(bench, sizes, bytes)),
    ...part(() => linearGroups(bench, sizes, bytes)),
    ...part(() => loss(bench, sizes, flops)),
    ...part(() => sampling(bench, sizes)),
  };
}
