// Attention at sizes where tiles, splits and groups meet their edges, CUDA against the CPU: 1, 17, 129 and 1,000 tokens,
// head sizes 64, 128 and 80, groups of 1, 2, 7 and 8 query heads, windows, and decoding over long contexts. Without a
// device, the same problems prove on the CPU that decoding through the cache gives the rows of the packed forward.
import { describe, expect, it } from 'vitest';
import { type Handle, loadNative, type NativeDevice } from '../../native/index.ts';
import { Random, RUN_SEED, relativeError, roundBf16, TOLERANCE } from '../helpers/tolerance.ts';
import { cudaDevice } from './devices.ts';
import { Bench, type F64, type FloatType } from './ops.table.ts';

const native = loadNative();
const BLOCK = 16;

interface Size {
  tokens: number;
  headDim: number;
  group: number;
  window?: number;
}

const SIZES: Size[] = [
  { tokens: 1, headDim: 64, group: 1 },
  { tokens: 17, headDim: 128, group: 2 },
  { tokens: 129, headDim: 80, group: 7 },
  { tokens: 129, headDim: 128, group: 8 },
  { tokens: 1000, headDim: 64, group: 7 },
  { tokens: 1000, headDim: 128, group: 1, window: 300 },
  { tokens: 1000, headDim: 128, group: 8 },
];

interface Drawn {
  q: F64;
  k: F64;
  v: F64;
  dout: F64;
  cu: number[];
}

function draw(random: Random, { tokens, headDim, group }: Size, type: FloatType): Drawn {
  const extra = tokens > 200 ? 1 : random.integer(1, 40); // a second sequence
  const T = tokens + extra;
  const values = (n: number, deviation = 1) => {
    const x = random.normals(n, deviation);
    return type === 'bf16' ? roundBf16(x) : x;
  };
  const [wide, narrow] = [T * group * headDim, T * headDim];
  return {
    q: values(wide, 1.5),
    k: values(narrow),
    v: values(narrow),
    dout: values(wide),
    cu: [0, tokens, T],
  };
}

/** Forward, backward, and the last 3 rows of the first sequence again through the paged cache, one at a time. */
function run(size: Size, x: Drawn, type: FloatType, device: NativeDevice): Record<string, F64> {
  const { headDim: D, group, window = 0, tokens } = size;
  const T = x.cu[2]!;
  const scale = 1 / Math.sqrt(D);
  const bench = new Bench(native, type, device);
  try {
    const [wide, narrow] = [
      [T, group * D],
      [T, D],
    ];
    const up = (values: F64, dims: number[]) => bench.upload(values, dims);
    const [q, k, v, dout] = [up(x.q, wide), up(x.k, narrow), up(x.v, narrow), up(x.dout, wide)];
    const cu = bench.i32(x.cu);
    const [out, lse] = [bench.empty(wide), bench.empty([group, T], 'f32')];
    native.attentionForward(out, lse, q, k, v, cu, D, scale, window);
    const [dq, dk, dv] = [bench.empty(wide), bench.empty(narrow), bench.empty(narrow)];
    native.attentionBackward(dq, dk, dv, dout, out, lse, q, k, v, cu, D, scale, window);
    const read = (h: Handle) => bench.read(h);
    const decoded = decode(bench, size, x, scale);
    const rows = Math.min(3, tokens);
    const last = read(out).slice((tokens - rows) * group * D, tokens * group * D);
    return { out: read(out), lse: read(lse), dq: read(dq), dk: read(dk), dv: read(dv), decoded, last };
  } finally {
    bench.close();
  }
}

function decode(bench: Bench, { tokens, headDim: D, group, window = 0 }: Size, x: Drawn, scale: number): F64 {
  const blocks = Math.ceil(tokens / BLOCK);
  const cache = () => bench.upload(new Float64Array(blocks * BLOCK * D), [blocks * BLOCK, D]);
  const [kCache, vCache] = [cache(), cache()];
  const first = (values: F64) => bench.upload(values.slice(0, tokens * D), [tokens, D]);
  const slots = Array.from(
    { length: tokens },
    (_, j) => (blocks - 1 - Math.floor(j / BLOCK)) * BLOCK + (j % BLOCK),
  );
  native.kvWrite(kCache, vCache, first(x.k), first(x.v), bench.i32(slots));
  const rows = Math.min(3, tokens);
  const table = Array.from({ length: blocks }, (_, b) => blocks - 1 - b);
  const tables = bench.upload(Array.from({ length: rows }, () => table).flat(), [rows, blocks], 'i32');
  const bounds = bench.i32(Array.from({ length: rows + 1 }, (_, i) => i));
  const contexts = bench.i32(Array.from({ length: rows }, (_, i) => tokens - rows + i + 1));
  const q = bench.upload(x.q.slice((tokens - rows) * group * D, tokens * group * D), [rows, group * D]);
  const out = bench.empty([rows, group * D]);
  native.pagedAttentionForward(out, q, kCache, vCache, tables, bounds, contexts, BLOCK, D, scale, window);
  return bench.read(out);
}

describe.each(['f32', 'bf16'] as const)('attention sizes, %s', (type) => {
  const limit = type === 'f32' ? TOLERANCE.opF32 : TOLERANCE.opBf16;

  it.each(SIZES)('$tokens tokens, head size $headDim, group $group', (size) => {
    const x = draw(new Random(RUN_SEED, JSON.stringify([size, type])), size, type);
    const expected = run(size, x, type, 'cpu');
    expect(relativeError(expected.decoded!, expected.last!), 'decoded rows').toBeLessThanOrEqual(limit);
    if (!cudaDevice.available) return;
    const got = run(size, x, type, 'cuda');
    for (const name of Object.keys(expected)) {
      const what = `${name} (LATHE_TEST_SEED=${RUN_SEED})`;
      expect(relativeError(got[name]!, expected[name]!), what).toBeLessThanOrEqual(limit);
    }
  });
});
