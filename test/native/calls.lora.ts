// One valid call of the linear layers with low-rank branches: the rest of calls.ts.
import type { Call } from './calls.ts';
import { seededTensor, tensor } from './tensors.ts';

const ROWS = 77;
const DEPTH = 150;
const WIDTHS = [66, 9, 130] as const;
const RANKS = [8, 3, 8] as const;
const RANK = 19;

export function loraCalls(dt: 'f32' | 'bf16'): Call[] {
  const rows = (from: number) => WIDTHS.map((n, i) => seededTensor(dt, [ROWS, n], from + i));
  const [y, dy] = [rows(20), rows(40)];
  const w = WIDTHS.map((n, i) => seededTensor(dt, [n, DEPTH], 10 + i, 0.1));
  const bias = WIDTHS.map((n, i) => seededTensor(dt, [n], 30 + i));
  const b = WIDTHS.map((n, i) => seededTensor('f32', [n, RANKS[i]!], 50 + i));
  const db = WIDTHS.map((n, i) => seededTensor('f32', [n, RANKS[i]!], 60 + i));
  const [x, dropped] = [seededTensor(dt, [ROWS, DEPTH], 1), seededTensor(dt, [ROWS, DEPTH], 2)];
  const a = seededTensor('f32', [RANK, DEPTH], 3, 0.1);
  const weights = { w0: w[0]!, w1: w[1]!, w2: w[2]! };
  const factors = { a, b0: b[0]!, b1: b[1]!, b2: b[2]!, scale0: 2, scale1: 0.5, scale2: -1.25 };
  return [
    {
      op: 'loraLinearForward',
      args: {
        ...{ y0: y[0]!, y1: y[1]!, y2: y[2]!, h: tensor('f32', [ROWS, RANK]), x, dropped },
        ...weights,
        ...{ bias0: bias[0]!, bias1: bias[1]!, bias2: bias[2]! },
        ...factors,
      },
      outputs: ['y0', 'y1', 'y2', 'h'],
      optional: ['y1', 'y2', 'dropped', 'w1', 'w2', 'bias0', 'bias1', 'bias2', 'b0', 'b1', 'b2'],
    },
    {
      op: 'loraLinearBackward',
      args: {
        dx: seededTensor(dt, [ROWS, DEPTH], 4),
        ddropped: seededTensor(dt, [ROWS, DEPTH], 5),
        da: seededTensor('f32', [RANK, DEPTH], 6),
        ...{ db0: db[0]!, db1: db[1]!, db2: db[2]!, dy0: dy[0]!, dy1: dy[1]!, dy2: dy[2]!, x, dropped },
        h: seededTensor('f32', [ROWS, RANK], 7),
        ...weights,
        ...factors,
        beta: 1,
      },
      outputs: ['dx', 'ddropped', 'da', 'db0', 'db1', 'db2'],
      optional: [
        'dx',
        'ddropped',
        'db0',
        'db1',
        'db2',
        'dy1',
        'dy2',
        'dropped',
        'w1',
        'w2',
        'b0',
        'b1',
        'b2',
      ],
    },
  ];
}
