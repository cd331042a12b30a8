// Rows of the op table for the serving ops: linear layers that share their rows, with an adapter per row.
import type { Handle } from '../../native/index.ts';
import type { Random } from '../helpers/tolerance.ts';
import { AWKWARD, type F64, type OpCase } from './ops.table.ts';

/** Adapters in one pool: `ranks[slot][layer]`, A [rank, depth] then B [width, rank], both at multiples of 8. */
function adapterPool(random: Random, ranks: readonly number[][], depth: number, widths: readonly number[]) {
  const pool: number[] = [];
  const table: number[] = [];
  const place = (values: F64) => {
    const at = pool.length / 8;
    pool.push(...values, ...new Array<number>((8 - (values.length % 8)) % 8).fill(0));
    return at;
  };
  const scales = ranks.map((_, slot) => 0.5 + slot / 4);
  ranks.forEach((row, slot) => {
    row.forEach((rank, layer) => {
      const a = place(random.normals(rank * depth, 1 / Math.sqrt(depth)));
      const b = place(random.normals(widths[layer]! * rank, 0.5));
      table.push(a, b, rank, new Int32Array(Float32Array.of(scales[slot]!).buffer)[0]!);
    });
  });
  return { pool: Float64Array.from([...pool, 0, 0, 0, 0, 0, 0, 0, 0]), table, scales };
}

type Packing = 'packWeight' | 'packWeightInt8';

/**
 * Rows [n, depth] as the int8 product reads them, in the op's own f32 steps (a number at a tie must fall to the same
 * side): weights as integers up to 127, activations up to 32,639.
 */
function throughIntegers(rows: F64, depth: number, largest: number): F64 {
  const nearest = (x: number) => {
    const floor = Math.floor(x);
    const rest = x - floor;
    return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
  };
  const peaks = Array.from({ length: rows.length / depth }, (_, row) =>
    rows.subarray(row * depth, (row + 1) * depth).reduce((most, value) => Math.max(most, Math.abs(value)), 0),
  );
  return rows.map((value, i) => {
    const peak = peaks[Math.floor(i / depth)]!;
    return nearest(Math.fround(value * Math.fround(largest / peak))) * Math.fround(peak / largest);
  });
}

function linearGroup(
  layers: 1 | 2 | 3,
  depths: readonly number[],
  tokens: readonly number[],
  packing: Packing | null = null,
): OpCase {
  return {
    name: `linear group of ${layers}, up to ${Math.max(...tokens)} rows${packing ? `, ${packing}` : ''}`,
    covers: ['linearGroup', ...(packing ? [packing] : [])],
    why: 'three sums (K ≤ 1,544, K, rank ≤ 16) in f32; a bf16 result adds one rounding',
    make(random, device) {
      // Packed weights are the CPU's; elsewhere the row is one more draw of plain ones.
      const pack = device === 'cpu' ? packing : null;
      const read = (rows: F64, largest: number) =>
        pack === 'packWeightInt8' ? throughIntegers(rows, K, largest) : rows;
      const [T, K] = [random.pick(tokens), random.pick(depths)];
      const widths = Array.from({ length: layers }, () => random.pick(AWKWARD));
      const ranks = [0, 8, 16].map((rank) => widths.map((_, i) => (i === 1 && rank === 8 ? 0 : rank)));
      const { pool, table, scales } = adapterPool(random, ranks, K, widths);
      const slots = Array.from({ length: T }, () => random.integer(-1, ranks.length - 1));
      const layer = (i: number, x: F64, w: F64, bias: F64, p: F64) => {
        const N = widths[i]!;
        const [readX, readW] = [read(x, 32_639), read(w, 127)];
        const y = new Float64Array(T * N);
        for (let t = 0; t < T; t++) {
          const slot = slots[t]!;
          const [a, b, rank] = slot < 0 ? [0, 0, 0] : table.slice((slot * layers + i) * 4);
          const dot = (rows: F64, values: F64, at: number) => {
            let sum = 0;
            for (let k = 0; k < K; k++) sum += rows[t * K + k]! * values[at + k]!;
            return sum;
          };
          const h = Array.from({ length: rank! }, (_, r) => dot(x, p, a! * 8 + r * K) * scales[slot]!);
          for (let n = 0; n < N; n++) {
            const low = h.reduce((sum, value, r) => sum + value * p[b! * 8 + n * rank! + r]!, 0);
            y[t * N + n] = dot(readX, readW, n * K) + bias[n]! + low;
          }
        }
        return y;
      };
      const names = widths.map((_, i) => i);
      return {
        inputs: {
          x: { values: random.normals(T * K), dims: [T, K] },
          pool: { values: pool, dims: [pool.length] },
          table: { values: Float64Array.from(table), dims: [ranks.length, layers, 4], dtype: 'i32' },
          slots: { values: Float64Array.from(slots), dims: [T], dtype: 'i32' },
          ...Object.fromEntries(
            names.flatMap((i) => [
              [`w${i}`, { values: random.normals(widths[i]! * K, 1 / Math.sqrt(K)), dims: [widths[i]!, K] }],
              [`bias${i}`, { values: random.normals(widths[i]!), dims: [widths[i]!] }],
            ]),
          ),
        },
        reference: (v) =>
          Object.fromEntries(
            names.map((i) => [`y${i}`, layer(i, v.x!, v[`w${i}`]!, v[`bias${i}`]!, v.pool!)]),
          ),
        forward(bench, v) {
          const y = names.map((i) => bench.empty([T, widths[i]!]));
          const [b0, b1, b2] = [v.bias0!, v.bias1 ?? null, v.bias2 ?? null];
          const { native } = bench;
          const weight = (w: Handle | undefined) => (w && pack ? bench.own(native[pack](w)) : (w ?? null));
          const [w0, w1, w2] = [weight(v.w0)!, weight(v.w1), weight(v.w2)];
          native.linearGroup(
            y[0]!,
            y[1] ?? null,
            y[2] ?? null,
            v.x!,
            w0,
            w1,
            w2,
            b0,
            b1,
            b2,
            v.pool!,
            v.table!,
            v.slots!,
          );
          return Object.fromEntries(names.map((i) => [`y${i}`, y[i]!]));
        },
      };
    },
  };
}

export const SERVING_CASES: OpCase[] = [
  linearGroup(1, [8, 24, 31, 1544], [1, 5]),
  linearGroup(3, [16, 264, 600], [8, 17, 32]),
  linearGroup(2, [7, 40], [33, 70]),
  linearGroup(3, [40, 600], [1, 8, 16], 'packWeight'),
  linearGroup(3, [7, 31, 600, 1544], [1, 8, 16, 17, 70], 'packWeightInt8'),
];
