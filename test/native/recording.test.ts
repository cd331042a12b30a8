// Recorded ops on the CPU: run when they are launched, on what their tensors hold then, with memory of their own.
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import type { GraphHandle } from '../../native/index.ts';
import { bytes, native, seededTensor, tensor, values } from './tensors.ts';

const ones = tensor('f32', [4, 4], new Array(16).fill(1));
const zeros = tensor('f32', [4, 4]);
const positions = tensor('i32', [3], [0, 1, 2]);
const matrix = seededTensor('f32', [4, 4], 9);

const graphs: GraphHandle[] = [];
afterEach(() => {
  for (const graph of graphs.splice(0)) native.graphFree(graph);
});

function record(work: () => void): GraphHandle {
  native.captureBegin('cpu');
  try {
    work();
  } finally {
    graphs.push(native.captureEnd());
  }
  return graphs.at(-1)!;
}

/** y = silu(x·wᵀ)·x through tensors of its own, freed as soon as they were used. */
function layer(y: object, x: object, w: object, rows: number, size: number): void {
  const product = native.tensorCreate('f32', [rows, size]);
  native.gemm(product, x, w, false, true, 1, 0);
  const gated = native.tensorCreate('f32', [rows, size]);
  native.swigluForward(gated, product, x);
  native.tensorFree(product);
  const copied = native.tensorCreate('f32', [rows, size]);
  native.copy(copied, gated);
  native.tensorFree(gated);
  native.scale(copied, 0.5);
  native.copy(y, copied);
  native.tensorFree(copied);
}

describe('a recording on the CPU', () => {
  it('runs nothing by itself, and on new contents what the ops would give', () => {
    const [rows, size] = [7, 70];
    const w = seededTensor('bf16', [size, size], 1);
    const x = tensor('f32', [rows, size]);
    const [y, expected] = [tensor('f32', [rows, size]), tensor('f32', [rows, size])];
    const graph = record(() => layer(y, x, w, rows, size));
    expect(values(y)).toEqual(new Array(rows * size).fill(0));
    for (const seed of [2, 3]) {
      native.copy(x, seededTensor('f32', [rows, size], seed));
      layer(expected, x, w, rows, size);
      native.graphLaunch(graph);
      expect(bytes(y).equals(bytes(expected))).toBe(true);
    }
  });

  it('records optional tensors, lists and numbers', () => {
    const x = seededTensor('f32', [3, 8], 5);
    const sum = native.tensorCreate('u8', [8]);
    const y = tensor('f32', [3, 8]);
    const graph = record(() => {
      native.qkNormRopeForward(y, null, x, null, ones, zeros, positions, 8, 1e-6);
      native.sumSquaresInto(sum, [x, y]);
    });
    native.graphLaunch(graph);
    expect(bytes(y).equals(bytes(x))).toBe(true);
    const total = values(x).reduce((a, b) => a + 2 * b * b, 0);
    expect(bytes(sum).readDoubleLE(0)).toBeCloseTo(total, 10);
  });

  it('keeps what its ops use alive, and shares the memory inside with other recordings until all are freed', () => {
    const before = native.info().bytesInUse;
    const y = tensor('f32', [64, 256]);
    const held = native.info().bytesInUse - before;
    const [x, w] = [seededTensor('f32', [64, 256], 6), seededTensor('f32', [256, 256], 7)];
    const inputs = native.info().bytesInUse - before - held;
    const first = record(() => layer(y, x, w, 64, 256));
    const inside = native.info().bytesInUse - before - held - inputs;
    // Of the three tensors inside, two are alive at once.
    expect(inside).toBe(2 * 64 * 256 * 4);
    const second = record(() => layer(y, x, w, 64, 256));
    expect(native.info().bytesInUse - before).toBe(held + inputs + inside);
    native.graphLaunch(first);
    const expected = bytes(y);
    native.tensorFree(x);
    native.tensorFree(w);
    native.fill(y, 0);
    native.graphLaunch(second);
    expect(bytes(y).equals(expected)).toBe(true);
    native.graphFree(first);
    expect(native.info().bytesInUse - before).toBe(held + inputs + inside);
    native.graphFree(second);
    native.tensorFree(y);
    expect(native.info().bytesInUse).toBe(before);
    expect(() => native.graphLaunch(second)).toThrow('graphLaunch: graph: was freed');
  });

  it('refuses what the host would read, write or decide meanwhile, and ends all the same', () => {
    const x = tensor('f32', [4], [1, 2, 3, 4]);
    const graph = record(() => {
      native.scale(x, 2);
      expect(() => native.tensorRead(x, new Float32Array(4))).toThrow('h: cannot be read or written while');
      expect(() => native.tensorWrite(x, new Float32Array(4))).toThrow('h: cannot be read or written while');
      expect(() => native.readLater(x)).toThrow('h: cannot be read or written while');
      expect(() => native.sumSquares(x)).toThrow('its result goes to the host');
      expect(() => native.packWeight(matrix)).toThrow('w: cannot be read or written while');
      expect(() => native.captureBegin('cpu')).toThrow('ops are being recorded already');
    });
    native.graphLaunch(graph);
    expect(values(x)).toEqual([2, 4, 6, 8]);
    expect(() => native.captureEnd()).toThrow();
    expect(() => native.captureBegin('tpu' as 'cpu')).toThrow(/device: 'tpu' is not one of cpu, cuda/);
  });

  it('checks indices anew at every launch and says which op refused', () => {
    const [out, x] = [tensor('f32', [1, 2]), tensor('f32', [3, 2], [1, 2, 3, 4, 5, 6])];
    const rows = tensor('i32', [1], [2]);
    const graph = record(() => native.gatherRows(out, x, rows));
    native.graphLaunch(graph);
    expect(values(out)).toEqual([5, 6]);
    native.tensorWrite(rows, Int32Array.of(3));
    expect(() => native.graphLaunch(graph)).toThrow(/^graphLaunch: gatherRows: rows: /);
    native.tensorWrite(rows, Int32Array.of(0));
    native.graphLaunch(graph);
    expect(values(out)).toEqual([1, 2]);
  });

  it('leaves the ops of other threads alone', () => {
    const addon = join(import.meta.dirname, '../../native/build/lathe.node');
    const shared = new Int32Array(new SharedArrayBuffer(4));
    const code = `
      const { workerData } = require('node:worker_threads');
      const native = require(workerData.addon);
      const x = native.tensorCreate('f32', [4]);
      native.fill(x, 3);
      const found = new Float32Array(4);
      native.tensorRead(x, found);
      Atomics.store(workerData.shared, 0, found[3]);
      Atomics.notify(workerData.shared, 0);`;
    const y = tensor('f32', [1], [5]);
    let worker: Worker | undefined;
    const graph = record(() => {
      native.scale(y, 2);
      worker = new Worker(code, { eval: true, workerData: { addon, shared } });
      Atomics.wait(shared, 0, 0, 20_000);
    });
    expect(shared[0]).toBe(3);
    native.graphLaunch(graph);
    expect(values(y)).toEqual([10]);
    return worker!.terminate();
  });
});
