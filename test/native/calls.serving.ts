// One valid call of every serving op: the rest of calls.ts.
import type { Call } from './calls.ts';
import { seededTensor, tensor } from './tensors.ts';

const V = 97;
const ints = (values: number[]) => tensor('i32', [values.length], values);

export function servingCalls(dt: 'f32' | 'bf16'): Call[] {
  const [rows, depth, widths, words] = [5, 40, [33, 8, 70], 4] as const;
  const w = (i: number) => seededTensor(dt, [widths[i]!, depth], 10 + i);
  const y = (i: number) => seededTensor(dt, [rows, widths[i]!], 20 + i);
  const bias = (i: number) => seededTensor(dt, [widths[i]!], 30 + i);
  // Two slots of rank 8 and 16 (none for the second layer of the first): A and B side by side in one pool.
  const entries = [0, 40, 8, 0, 0, 0, 0, 0, 80, 120, 8, 0, 200, 280, 16, 0, 0, 400, 16, 0, 200, 500, 8, 0];
  const scale = new Int32Array(Float32Array.of(0.5).buffer)[0]!;
  const table = entries.map((value, i) => (i % 4 === 3 ? scale : value));
  return [
    {
      op: 'linearGroup',
      args: {
        y0: y(0),
        y1: y(1),
        y2: y(2),
        x: seededTensor(dt, [rows, depth], 1),
        w0: w(0),
        w1: w(1),
        w2: w(2),
        bias0: bias(0),
        bias1: bias(1),
        bias2: bias(2),
        pool: seededTensor(dt, [8 * 640], 2),
        table: tensor('i32', [2, 3, 4], table),
        slots: ints([0, -1, 1, 1, 0]),
      },
      outputs: ['y0', 'y1', 'y2'],
      optional: ['y1', 'y2', 'w1', 'w2', 'bias0', 'bias1', 'bias2', 'pool', 'table', 'slots'],
    },
    {
      op: 'sampleTokens',
      args: {
        tokens: tensor('i32', [3]),
        logprobs: tensor('f32', [3, 3]),
        topTokens: tensor('i32', [3, 2]),
        logits: seededTensor('f32', [3, V + 5], 1, 4),
        floats: tensor('f32', [3, 4], [1, 0.9, 0.1, 0.2, 0, 1, 0, 0, 0.7, 1, 0, 0]),
        ints: tensor(
          'i32',
          [3, 8],
          [0, 7, 0, 3, 0, 5, 0, -1, 0, 7, 0, 3, 0, 5, -1, 0, 5, 7, 0, 3, 0, 6, 1, 1],
        ),
        biasOffsets: ints([0, 1, 1, 3]),
        biasTokens: ints([4, 5, 6]),
        biasValues: tensor('f32', [3], [1, -2, 3]),
        counts: tensor(
          'i32',
          [2, V + 5],
          Array.from({ length: 2 * (V + 5) }, (_, i) => i % 3),
        ),
        mask: tensor('i32', [2, words], new Array<number>(2 * words).fill(-1)),
        vocabulary: V,
      },
      outputs: ['tokens', 'logprobs', 'topTokens', 'logits', 'counts'],
      optional: ['logprobs', 'topTokens', 'biasOffsets', 'biasTokens', 'biasValues', 'counts', 'mask'],
    },
  ];
}
