// The same bytes from run to run and for any number of threads, rows that do not depend on their neighbours, and
// every instruction set within rounding of the others.
import { createHash } from 'node:crypto';
import { afterEach, describe, expect, it } from 'vitest';
import type { Handle } from '../../native/index.ts';
import { type Call, run, validCalls } from './calls.ts';
import { bytes, native, seededTensor, tensor, values } from './tensors.ts';

const initial = native.info();
afterEach(() => native.configure({ isa: initial.isa, threads: initial.threads }));

/** Runs a fresh copy of every call and returns what it wrote and answered, by "op.output". */
function outcomes<V>(dt: 'f32' | 'bf16', read: (handle: Handle) => V): Map<string, V | number | boolean> {
  const found = new Map<string, V | number | boolean>();
  for (const call of validCalls(dt)) {
    const answer = run(call);
    if (typeof answer === 'number' || typeof answer === 'boolean') found.set(call.op, answer);
    else if (answer !== undefined) found.set(call.op, read(answer as Handle));
    for (const name of call.outputs) found.set(`${call.op}.${name}`, read(call.args[name] as Handle));
  }
  return found;
}

describe.each(['f32', 'bf16'] as const)('%s', (dt) => {
  it.each(initial.isas)('%s gives the same bytes for 1, 2 and 5 threads and again', (isa) => {
    const hex = (handle: Handle) => createHash('sha256').update(bytes(handle)).digest('hex');
    native.configure({ isa, threads: 1 });
    const alone = outcomes(dt, hex);
    for (const threads of [2, 5, 2]) {
      native.configure({ threads });
      expect(outcomes(dt, hex)).toEqual(alone);
    }
  });

  it('gives the same values within rounding on every instruction set', () => {
    native.configure({ isa: 'generic' });
    const plain = outcomes(dt, values);
    for (const isa of initial.isas) {
      native.configure({ isa });
      for (const [name, expected] of plain) {
        if (name.startsWith('packWeight')) continue; // bytes, compared below
        const actual = outcomesOf(dt, name);
        const tolerance = dt === 'bf16' ? 8e-3 : 3e-6;
        expect(distance(actual, expected as number[] | number), `${isa} ${name}`).toBeLessThan(tolerance);
      }
    }
  });

  it('packs weights alike on every instruction set', () => {
    const w = seededTensor(dt, [71, 35], 4);
    for (const pack of [native.packWeight, native.packWeightInt8]) {
      native.configure({ isa: 'generic' });
      const expected = bytes(pack(w));
      for (const isa of initial.isas) {
        native.configure({ isa });
        expect(bytes(pack(w)).equals(expected)).toBe(true);
      }
    }
  });
});

let cached: { key: string; map: Map<string, number[] | number | boolean> } | null = null;

/** One outcome for the instruction set in use; all are computed at once and kept. */
function outcomesOf(dt: 'f32' | 'bf16', name: string): number[] | number {
  const key = `${native.info().isa} ${dt}`;
  if (cached?.key !== key) cached = { key, map: outcomes(dt, values) };
  return cached.map.get(name) as number[] | number;
}

function distance(actual: number[] | number, expected: number[] | number): number {
  const a = [actual].flat().map(Number);
  const b = [expected].flat().map(Number);
  expect(a.length).toBe(b.length);
  const norm = (list: number[]) => Math.sqrt(list.reduce((sum, x) => sum + x * x, 0));
  return norm(a.map((x, i) => x - b[i]!)) / (norm(b) || 1);
}

describe('rows stand alone', () => {
  it.each(initial.isas)('%s: a row of a product does not depend on the rows beside it', (isa) => {
    native.configure({ isa });
    for (const da of ['f32', 'bf16'] as const) {
      for (const dw of ['f32', 'bf16'] as const) {
        for (const [n, k] of [
          [8, 301],
          [97, 70],
          [300, 33],
        ] as const) {
          const a = seededTensor(da, [61, k], 1);
          const w = seededTensor(dw, [n, k], 2);
          const [packed, int8] = [native.packWeight(w), native.packWeightInt8(w)];
          const whole = product(a, w, 61, n);
          const wholeInt8 = packedProduct(a, int8, 61, n);
          const width = n * 4;
          for (const [first, rows] of [
            [0, 1],
            [17, 1],
            [5, 3],
            [40, 7],
            [30, 13],
            [0, 60],
          ] as const) {
            const part = native.tensorView(a, first * k * (da === 'f32' ? 4 : 2), [rows, k]);
            const expected = whole.subarray(first * width, (first + rows) * width);
            expect(product(part, w, rows, n).equals(expected)).toBe(true);
            expect(packedProduct(part, packed, rows, n).equals(expected)).toBe(true);
            const expectedInt8 = wholeInt8.subarray(first * width, (first + rows) * width);
            expect(packedProduct(part, int8, rows, n).equals(expectedInt8)).toBe(true);
          }
        }
      }
    }
  });

  it.each(initial.isas)(
    '%s: an element depends on its row and its column alone, on whichever side a product packs',
    (isa) => {
      native.configure({ isa });
      const [m, n, k] = [150, 133, 600]; // two panels of 64 columns and a rest, blocks of 256 k and a rest
      for (const dt of ['f32', 'bf16'] as const) {
        const size = dt === 'f32' ? 4 : 2;
        const [a, w] = [seededTensor(dt, [m, k], 1), seededTensor(dt, [n, k], 2)];
        const whole = product(a, w, m, n);
        for (const threads of [1, 3]) {
          native.configure({ threads });
          for (const [row, rows, column, columns] of [
            [0, 150, 0, 133],
            [149, 1, 0, 133],
            [3, 16, 5, 128],
            [20, 17, 70, 63],
            [7, 64, 1, 49],
            [50, 100, 90, 11],
            [1, 130, 132, 1],
          ] as const) {
            const x = native.tensorView(a, row * k * size, [rows, k]);
            const part = product(x, native.tensorView(w, column * k * size, [columns, k]), rows, columns);
            const expected = Array.from({ length: rows }, (_, i) => {
              const from = ((row + i) * n + column) * 4;
              return whole.subarray(from, from + columns * 4);
            });
            expect(part.equals(Buffer.concat(expected)), `${dt} ${rows}×${columns}`).toBe(true);
          }
        }
      }
    },
  );

  it.each(initial.isas)('%s: paged attention gives the training forward bit for bit', (isa) => {
    native.configure({ isa });
    for (const stored of ['f32', 'bf16'] as const)
      for (const window of [0, 20]) expect(pagedEqualsPacked(window, stored)).toBe(true);
  });
});

function product(a: Handle, w: Handle, m: number, n: number): Buffer {
  const c = tensor('f32', [m, n]);
  native.gemm(c, a, w, false, true, 1, 0);
  return bytes(c);
}

function packedProduct(a: Handle, packed: Handle, m: number, n: number): Buffer {
  const c = tensor('f32', [m, n]);
  native.gemmPacked(c, a, packed, 1, 0);
  return bytes(c);
}

/**
 * One sequence of 130 tokens, keys and values `stored` in one type: whole, then its last token and its last 40 from a cache
 * in shuffled blocks.
 */
function pagedEqualsPacked(window: number, stored: 'f32' | 'bf16'): boolean {
  const [T, heads, kvHeads, d, block] = [130, 4, 2, 24, 16];
  const q = seededTensor('f32', [T, heads * d], 1, 3);
  const k = seededTensor(stored, [T, kvHeads * d], 2, 3);
  const v = seededTensor(stored, [T, kvHeads * d], 3);
  const out = tensor('f32', [T, heads * d]);
  native.attentionForward(
    out,
    tensor('f32', [heads, T]),
    q,
    k,
    v,
    tensor('i32', [2], [0, T]),
    d,
    0.3,
    window,
  );
  const table = Array.from({ length: 9 }, (_, i) => (i * 4 + 3) % 9);
  const cache = () =>
    tensor(stored, [9 * block, kvHeads * d], new Array(9 * block * kvHeads * d).fill(Number.NaN));
  const kCache = cache();
  const vCache = cache();
  const slots = Array.from({ length: T }, (_, i) => table[Math.floor(i / block)]! * block + (i % block));
  native.kvWrite(kCache, vCache, k, v, tensor('i32', [T], slots));
  return [1, 40, T].every((count) => {
    const width = heads * d * 4;
    const part = native.tensorView(q, (T - count) * width, [count, heads * d]);
    const paged = tensor('f32', [count, heads * d]);
    const tables = tensor('i32', [1, 9], table);
    const offsets = tensor('i32', [2], [0, count]);
    native.pagedAttentionForward(
      paged,
      part,
      kCache,
      vCache,
      tables,
      offsets,
      tensor('i32', [1], [T]),
      block,
      d,
      0.3,
      window,
    );
    return bytes(paged).equals(bytes(out).subarray((T - count) * width));
  });
}

describe('in place', () => {
  it('gives what it gives into another tensor', () => {
    const inPlace: [string, string, string][] = [
      ['add', 'out', 'a'],
      ['cast', 'dst', 'src'],
      ['dropoutForward', 'y', 'x'],
      ['swigluForward', 'y', 'gate'],
      ['swigluBackward', 'dgate', 'gate'],
      ['swigluBackward', 'dup', 'dy'],
      ['rmsNormForward', 'y', 'x'],
      ['rmsNormBackward', 'dx', 'dy'],
      ['rmsNormBackward', 'dx', 'dres'],
      ['addRmsNormForward', 'z', 'x'],
      ['qkNormRopeForward', 'y', 'x'],
      ['qkNormRopeBackward', 'dx', 'dy'],
    ];
    for (const [op, output, input] of inPlace) {
      const fresh = () => validCalls('f32').find((call) => call.op === op)!;
      const apart: Call = fresh();
      if (op === 'cast') apart.args.dst = tensor('f32', native.tensorInfo(apart.args.src as Handle).dims);
      run(apart);
      const together = fresh();
      together.args[output] = together.args[input]!;
      run(together);
      const same = bytes(together.args[output] as Handle).equals(bytes(apart.args[output] as Handle));
      expect(same, `${op} with ${output} = ${input}`).toBe(true);
    }
  });
});
