// Lifetimes: handles, views, mappings, the memory limit, and several worker_threads in one process.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterAll, describe, expect, it } from 'vitest';
import { bytes, native, seededTensor, tensor, values } from './tensors.ts';

const folder = mkdtempSync(join(tmpdir(), 'lathe-native-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('handles', () => {
  it('frees once, refuses use afterwards, and keeps storage for views', () => {
    const base = tensor('f32', [2, 3], [1, 2, 3, 4, 5, 6]);
    const row = native.tensorView(base, 12, [3]);
    const before = native.info().bytesInUse;
    native.tensorFree(base);
    native.tensorFree(base);
    expect(() => native.tensorInfo(base)).toThrow('tensorInfo: h: the tensor was freed');
    expect(() => native.tensorView(base, 0, [1])).toThrow('tensorView: base: the tensor was freed');
    expect(values(row)).toEqual([4, 5, 6]);
    expect(native.info().bytesInUse).toBe(before);
    native.tensorFree(row);
    expect(native.info().bytesInUse).toBeLessThan(before);
  });

  it('counts bytes in use, reuses freed blocks and gives them back', () => {
    native.trim();
    const start = native.info();
    const large = native.tensorCreate('f32', [1 << 20]);
    expect(native.info().bytesInUse - start.bytesInUse).toBe(4 << 20);
    native.tensorFree(large);
    expect(native.info()).toMatchObject({
      bytesInUse: start.bytesInUse,
      bytesPooled: start.bytesPooled + (4 << 20),
    });
    native.tensorFree(native.tensorCreate('bf16', [2 << 20]));
    expect(native.info().bytesPooled).toBe(start.bytesPooled + (4 << 20));
    native.trim();
    expect(native.info().bytesPooled).toBe(0);
    expect(native.info().bytesPeak).toBeGreaterThanOrEqual(4 << 20);
  });

  it('converts views of one buffer between types without copying', () => {
    const words = tensor('u8', [8], [0, 0, 128, 63, 0, 0, 0, 64]);
    expect(values(native.tensorView(words, 0, [2], 'f32'))).toEqual([1, 2]);
  });

  it('accepts empty tensors in every role', () => {
    const empty = tensor('f32', [0, 4]);
    const out = tensor('f32', [0, 3]);
    native.gemm(out, empty, tensor('f32', [3, 4]), false, true, 1, 0);
    const c = tensor('f32', [2, 2], [1, 1, 1, 1]);
    native.gemm(c, tensor('f32', [2, 0]), tensor('f32', [0, 2]), false, false, 1, 0.5);
    expect(values(c)).toEqual([0.5, 0.5, 0.5, 0.5]);
    native.add(empty, empty, empty);
    expect(native.sumSquares(empty)).toBe(0);
    expect(native.hasNonFinite(empty)).toBe(false);
  });
});

describe('limits', () => {
  it('answers a request beyond the limit with LATHE_OUT_OF_MEMORY and goes on', () => {
    native.trim();
    native.configure({ memoryLimitBytes: native.info().bytesInUse + (8 << 20) });
    try {
      const held = native.tensorCreate('u8', [6 << 20]);
      let error: unknown;
      try {
        native.tensorCreate('u8', [6 << 20]);
      } catch (thrown) {
        error = thrown;
      }
      expect(error).toMatchObject({ code: 'LATHE_OUT_OF_MEMORY' });
      expect((error as Error).message).toContain('tensorCreate: cannot allocate');
      // Scratch space of an op counts too, and running out of it leaves everything usable.
      const a = seededTensor('f32', [700, 700], 1);
      expect(() => native.packWeight(a)).toThrow('packWeight: cannot allocate');
      native.tensorFree(held);
      native.tensorFree(native.packWeight(a));
    } finally {
      native.configure({ memoryLimitBytes: 0 });
    }
  });

  it('refuses what no machine has', () => {
    expect(() => native.tensorCreate('f32', [2 ** 45])).toThrow('tensorCreate: ');
  });
});

describe('the pool', () => {
  const SLACK = 64 << 20; // what may stay idle beyond the highest use: native/core/allocator.cc

  it('does not add up the sizes of calls that are never alike', () => {
    native.trim();
    let asked = 0;
    for (let mib = 8; mib < 48; mib++) {
      native.tensorFree(native.tensorCreate('u8', [mib << 20]));
      asked += mib << 20;
    }
    const { bytesInUse, bytesPeak, bytesPooled } = native.info();
    expect(bytesInUse + bytesPooled).toBeLessThanOrEqual(bytesPeak + SLACK);
    expect(bytesInUse + bytesPooled).toBeLessThan(asked / 4);
    native.trim();
  });

  it('hands an idle block to a request that is a little smaller and counts it whole', () => {
    native.trim();
    const before = native.info().bytesInUse;
    native.tensorFree(native.tensorCreate('u8', [40 << 20]));
    const pooled = native.info().bytesPooled;
    const smaller = native.tensorCreate('u8', [36 << 20]);
    expect(native.info().bytesInUse - before).toBe(40 << 20);
    native.tensorFree(smaller);
    expect(native.info().bytesPooled).toBe(pooled);
    expect(native.info().bytesInUse).toBe(before);
    native.trim();
    expect(native.info().bytesPooled).toBe(0);
  });
});

describe('file mappings', () => {
  it('reads a file in place, read-only', () => {
    const path = join(folder, 'weights');
    writeFileSync(path, Buffer.from(new Float32Array([1, 2, 3]).buffer));
    const file = native.mapFile(path);
    const inUse = native.info().bytesInUse;
    expect(native.tensorInfo(file)).toEqual({ dtype: 'u8', dims: [12], bytes: 12 });
    const view = native.tensorView(file, 4, [2], 'f32');
    native.tensorFree(file);
    expect(values(view)).toEqual([2, 3]);
    expect(native.info().bytesInUse).toBe(inUse);
    expect(() => native.fill(view, 0)).toThrow('fill: x: is a read-only file mapping');
    expect(() => native.tensorWrite(view, new Float32Array(1))).toThrow(
      'tensorWrite: h: is a read-only file mapping',
    );
    const copy = tensor('f32', [2]);
    native.copy(copy, view);
    expect(values(copy)).toEqual([2, 3]);
  });
});

const workerSource = `
  const { parentPort, workerData } = require('node:worker_threads');
  const native = require(workerData.addon);
  const a = native.tensorCreate('f32', [200, 300]), c = native.tensorCreate('f32', [200, 200]);
  native.randomNormal(a, 0, 1, 5, 6);
  for (let i = 0; i < workerData.rounds; i++) native.gemm(c, a, a, false, true, 1, 0);
  const out = new Float32Array(200 * 200);
  native.tensorRead(c, out);
  parentPort.postMessage(out);
`;
const addon = join(import.meta.dirname, '..', '..', 'native', 'build', 'lathe.node');

function startWorker(rounds: number): Worker {
  return new Worker(workerSource, { eval: true, workerData: { addon, rounds } });
}

describe('worker_threads', () => {
  it('gives every thread the same bytes', async () => {
    const a = native.tensorCreate('f32', [200, 300]);
    const c = native.tensorCreate('f32', [200, 200]);
    native.randomNormal(a, 0, 1, 5, 6);
    native.gemm(c, a, a, false, true, 1, 0);
    const results = await Promise.all(
      [3, 5, 7].map(
        (rounds) =>
          new Promise<Float32Array>((resolve, reject) => {
            startWorker(rounds).once('message', resolve).once('error', reject);
          }),
      ),
    );
    for (const result of results) expect(Buffer.compare(Buffer.from(result.buffer), bytes(c))).toBe(0);
  });

  it('outlives threads that are terminated in the middle of their work', async () => {
    for (let i = 0; i < 3; i++) {
      const worker = startWorker(1_000_000);
      await new Promise((resolve) => worker.once('online', resolve));
      await worker.terminate();
    }
    const x = tensor('f32', [3], [1, 2, 3]);
    native.scale(x, 2);
    expect(values(x)).toEqual([2, 4, 6]);
  });
});
