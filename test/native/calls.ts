// One valid call of every op: the argument, determinism and instruction-set tests all start from these. Sizes are
// awkward on purpose (no multiple of a vector or a panel) and large enough to be split over threads where marked.
import type { Handle, Native } from '../../native/index.ts';
import { loraCalls } from './calls.lora.ts';
import { servingCalls } from './calls.serving.ts';
import { native, seededNumbers, seededTensor, tensor } from './tensors.ts';

export type OpName = Exclude<
  keyof Native,
  | 'info'
  | 'configure'
  | 'trim'
  | 'tensorCreate'
  | 'tensorView'
  | 'tensorFree'
  | 'tensorInfo'
  | 'tensorWrite'
  | 'tensorRead'
  | 'mapFile'
  | 'cudaInfo'
  | 'cudaConfigure'
  | 'synchronize'
  | 'readLater'
  | 'deferredReady'
  | 'deferredTake'
  | 'captureBegin'
  | 'captureEnd'
  | 'graphLaunch'
  | 'graphFree'
  | 'sumSquaresInto'
  | 'adamwList'
>;

export interface Call {
  op: OpName;
  /** Argument name → value, in order. */
  args: Record<string, Handle | number | boolean | null>;
  /** Names of the arguments that are written. */
  outputs: string[];
  /** Handles that may be null. */
  optional?: string[];
}

/** Runs a call, returning what the op returns. */
export function run(call: Call): unknown {
  return (native[call.op] as (...args: unknown[]) => unknown)(...Object.values(call.args));
}

const T = 301;
const C = 70;
const D = 10;
const HEADS = 6;
const KV_HEADS = 2;
const V = 97;
const BLOCK = 16;

const ints = (values: number[]) => tensor('i32', [values.length], values);
const positions = () => ints(Array.from({ length: T }, (_, i) => i % 150));
const offsets = () => ints([0, 1, 1, 40, T]);

function elementwiseCalls(dt: 'f32' | 'bf16'): Call[] {
  const like = (seed: number) => seededTensor(dt, [T, C], seed);
  const shared = { seed: 7, stream: 3 };
  return [
    { op: 'fill', args: { x: like(1), value: 0.5 }, outputs: ['x'] },
    { op: 'copy', args: { dst: like(1), src: like(2) }, outputs: ['dst'] },
    {
      op: 'cast',
      args: { dst: seededTensor('bf16', [T, C], 1), src: seededTensor('f32', [T, C], 2) },
      outputs: ['dst'],
    },
    { op: 'add', args: { out: like(1), a: like(2), b: like(3) }, outputs: ['out'] },
    { op: 'axpy', args: { y: like(1), alpha: 0.3, x: like(2) }, outputs: ['y'] },
    { op: 'scale', args: { y: like(1), alpha: 1.7 }, outputs: ['y'] },
    { op: 'addBias', args: { y: like(1), b: seededTensor(dt, [C], 2) }, outputs: ['y'] },
    { op: 'biasBackward', args: { db: seededTensor('f32', [C], 1), dy: like(2) }, outputs: ['db'] },
    { op: 'sumSquares', args: { x: like(1) }, outputs: [] },
    { op: 'hasNonFinite', args: { x: like(1) }, outputs: [] },
    { op: 'dropoutForward', args: { y: like(1), x: like(2), p: 0.25, ...shared }, outputs: ['y'] },
    { op: 'dropoutBackward', args: { dx: like(1), dy: like(2), p: 0.25, ...shared }, outputs: ['dx'] },
    { op: 'randomUniform', args: { x: like(1), lo: -2, hi: 3, ...shared }, outputs: ['x'] },
    { op: 'randomNormal', args: { x: like(1), mean: 1, std: 2, ...shared }, outputs: ['x'] },
    { op: 'swigluForward', args: { y: like(1), gate: like(2), up: like(3) }, outputs: ['y'] },
    {
      op: 'swigluBackward',
      args: { dgate: like(1), dup: like(2), dy: like(3), gate: like(4), up: like(5) },
      outputs: ['dgate', 'dup'],
    },
  ];
}

function linearCalls(dt: 'f32' | 'bf16'): Call[] {
  const a = seededTensor(dt, [T, C], 1);
  const w = seededTensor(dt, [V, C], 2);
  return [
    {
      op: 'gemm',
      args: { c: seededTensor(dt, [T, V], 3), a, b: w, transA: false, transB: true, alpha: 0.7, beta: 0.5 },
      outputs: ['c'],
    },
    { op: 'packWeight', args: { w }, outputs: [] },
    { op: 'packWeightInt8', args: { w }, outputs: [] },
    {
      op: 'gemmPacked',
      args: { c: seededTensor(dt, [T, V], 3), a, packed: native.packWeight(w), alpha: 0.7, beta: 0.5 },
      outputs: ['c'],
    },
    {
      op: 'linearCrossEntropy',
      args: {
        losses: tensor('f32', [T]),
        correct: tensor('i32', [T]),
        dx: seededTensor(dt, [T, C], 4),
        dw: seededTensor('f32', [V, C], 5),
        x: a,
        w,
        targets: ints(Array.from({ length: T }, (_, i) => (i * 31) % V)),
        rowScale: seededTensor('f32', [T], 6),
        gradScale: 0.01,
      },
      outputs: ['losses', 'correct', 'dx', 'dw'],
      optional: ['dx', 'dw', 'rowScale'],
    },
    {
      op: 'adamwStep',
      args: {
        p: seededTensor('f32', [T, C], 1),
        m: seededTensor('f32', [T, C], 2),
        v: tensor('f32', [T, C], seededNumbers(3, T * C).map(Math.abs)),
        g: seededTensor('f32', [T, C], 4),
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weightDecay: 0.1,
        step: 3,
        gradScale: 0.5,
      },
      outputs: ['p', 'm', 'v'],
    },
  ];
}

function rowCalls(dt: 'f32' | 'bf16'): Call[] {
  const x = (seed: number) => seededTensor(dt, [T, C], seed);
  const w = seededTensor(dt, [C], 9);
  const rstd = () => tensor('f32', [T], seededNumbers(8, T).map(Math.abs));
  const ids = ints(Array.from({ length: T }, (_, i) => (i * 7) % V));
  const rows = ints(Array.from({ length: 100 }, (_, i) => (i * 3 + 1) % T));
  return [
    {
      op: 'embeddingForward',
      args: { out: x(1), weight: seededTensor(dt, [V, C], 2), ids },
      outputs: ['out'],
    },
    {
      op: 'embeddingBackward',
      args: { dw: seededTensor('f32', [V, C], 1), dout: x(2), ids },
      outputs: ['dw'],
    },
    { op: 'gatherRows', args: { out: seededTensor(dt, [100, C], 1), x: x(2), rows }, outputs: ['out'] },
    { op: 'scatterAddRows', args: { dx: x(1), dout: seededTensor(dt, [100, C], 2), rows }, outputs: ['dx'] },
    { op: 'rmsNormForward', args: { y: x(1), rstd: rstd(), x: x(2), w, eps: 1e-6 }, outputs: ['y', 'rstd'] },
    {
      op: 'rmsNormBackward',
      args: { dx: x(1), dw: seededTensor('f32', [C], 2), dy: x(3), x: x(4), w, rstd: rstd(), dres: x(5) },
      outputs: ['dx', 'dw'],
      optional: ['dw', 'dres'],
    },
    {
      op: 'addRmsNormForward',
      args: { y: x(1), z: x(2), rstd: rstd(), x: x(3), delta: x(4), w, eps: 1e-6 },
      outputs: ['y', 'z', 'rstd'],
    },
  ];
}

function attentionCalls(dt: 'f32' | 'bf16'): Call[] {
  const q = (seed: number) => seededTensor(dt, [T, HEADS * D], seed);
  const k = (seed: number) => seededTensor(dt, [T, KV_HEADS * D], seed);
  const table = (seed: number) => seededTensor('f32', [150, D / 2], seed);
  const blocks = [0, 10, 2, 20];
  const w = seededTensor('f32', [D], 2);
  const tables = tensor('i32', [2, 2], [blocks[1]!, blocks[0]!, blocks[3]!, blocks[2]!]);
  return [
    {
      op: 'qkNormRopeForward',
      args: {
        y: q(1),
        rstd: tensor('f32', [T, HEADS]),
        x: q(2),
        w,
        cos: table(3),
        sin: table(4),
        positions: positions(),
        headDim: D,
        eps: 1e-6,
      },
      outputs: ['y', 'rstd'],
      optional: ['rstd', 'w'],
    },
    {
      op: 'qkNormRopeBackward',
      args: {
        dx: q(1),
        dw: seededTensor('f32', [D], 2),
        dy: q(3),
        x: q(4),
        w,
        rstd: tensor('f32', [T, HEADS], seededNumbers(5, T * HEADS).map(Math.abs)),
        cos: table(3),
        sin: table(4),
        positions: positions(),
        headDim: D,
      },
      outputs: ['dx', 'dw'],
      optional: ['dw', 'w'],
    },
    {
      op: 'attentionForward',
      args: {
        out: q(1),
        lse: tensor('f32', [HEADS, T]),
        q: q(2),
        k: k(3),
        v: k(4),
        cuSeqlens: offsets(),
        headDim: D,
        scale: 0.4,
        window: 0,
      },
      outputs: ['out', 'lse'],
    },
    {
      op: 'attentionBackward',
      args: {
        dq: q(1),
        dk: k(2),
        dv: k(3),
        dout: q(4),
        out: q(5),
        lse: tensor(
          'f32',
          [HEADS, T],
          seededNumbers(6, HEADS * T).map((x) => x + 4),
        ),
        q: q(7),
        k: k(8),
        v: k(9),
        cuSeqlens: offsets(),
        headDim: D,
        scale: 0.4,
        window: 50,
      },
      outputs: ['dq', 'dk', 'dv'],
    },
    {
      op: 'kvWrite',
      args: {
        kCache: seededTensor(dt, [30 * BLOCK, KV_HEADS * D], 1),
        vCache: seededTensor(dt, [30 * BLOCK, KV_HEADS * D], 2),
        k: k(3),
        v: k(4),
        slots: ints(Array.from({ length: T }, (_, i) => 30 * BLOCK - 1 - i)),
      },
      outputs: ['kCache', 'vCache'],
    },
    {
      op: 'pagedAttentionForward',
      args: {
        out: seededTensor(dt, [5, HEADS * D], 1),
        q: seededTensor(dt, [5, HEADS * D], 2),
        kCache: seededTensor(dt, [30 * BLOCK, KV_HEADS * D], 3),
        vCache: seededTensor(dt, [30 * BLOCK, KV_HEADS * D], 4),
        blockTables: tables,
        cuSeqlensQ: ints([0, 1, 5]),
        contextLens: ints([17, 32]),
        blockSize: BLOCK,
        headDim: D,
        scale: 0.4,
        window: 0,
      },
      outputs: ['out'],
    },
  ];
}

/** A valid call of every op, with fresh tensors. */
export function validCalls(dt: 'f32' | 'bf16'): Call[] {
  return [
    ...elementwiseCalls(dt),
    ...linearCalls(dt),
    ...rowCalls(dt),
    ...attentionCalls(dt),
    ...loraCalls(dt),
    ...servingCalls(dt),
  ];
}
