// Looking into files: what is read when time is short, files that are gone, rows far into a file, and a busy inspector.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { InspectedFile, InspectRequest } from '../../src/inference/inspection.ts';
import { openDiskStorage } from '../../src/storage/disk.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { loadTokenizer } from '../../workers/engine/tokenizer/load.ts';
import { Inspector } from '../../workers/inference/inspect.ts';
import { inspectFile, inspectRows } from '../../workers/inference/inspect-files.ts';
import { trainingMemory } from '../../workers/inference/inspect-memory.ts';

const MODEL = path.join(import.meta.dirname, '..', '..', 'models', 'lathe-tiny');
const ROWS = 2_000;
const MANY_ROWS = 20_000;
const dir = mkdtempSync(path.join(tmpdir(), 'lathe-inspect-'));
const tokenizer = loadTokenizer(MODEL);
let storage: Storage;
let bytes: number;

const file: InspectedFile = { param: 'training_file', id: 'file-a', storage_key: 'a', min_examples: 10 };
const request: InspectRequest = {
  ...{ base_model: 'tiny', owner: 'proj_a', method: 'supervised', max_length: 512, overlong: 'truncate' },
  ...{ files: [file], seconds: 20, rows: null, training: null },
};
const row = (i: number) =>
  `${JSON.stringify({
    messages: [
      { role: 'user', content: `How old is number ${i}?` },
      { role: 'assistant', content: `Number ${i} is old.` },
    ],
  })}\n`;

beforeAll(async () => {
  storage = await openDiskStorage(dir);
  const content = Buffer.from(Array.from({ length: ROWS }, (_, i) => row(i)).join(''));
  bytes = content.length;
  await storage.put('a', content);
  await storage.put('many', Buffer.from(Array.from({ length: MANY_ROWS }, (_, i) => row(i)).join('')));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('inspectFile', () => {
  it('reads a file to its end within its time', async () => {
    const found = await inspectFile(storage, tokenizer, file, request, Number.POSITIVE_INFINITY);
    expect(found).toMatchObject({
      complete: true,
      bytes_read: bytes,
      rows: ROWS,
      examples: ROWS,
      errors: [],
    });
  });

  it('stops when its time is up and says how far it came, without missing examples', async () => {
    const many = { ...file, storage_key: 'many' };
    const found = await inspectFile(storage, tokenizer, many, request, performance.now());
    expect(found).toMatchObject({ complete: false, rows: 1, examples: 1, errors_total: 0 });
    expect(found.bytes_read).toBe(Buffer.byteLength(row(0)));
  });

  it('names a file whose content is gone', async () => {
    const gone = { ...file, storage_key: 'b' };
    const found = await inspectFile(storage, tokenizer, gone, request, Number.POSITIVE_INFINITY);
    expect(found.errors).toMatchObject([{ line: null, code: 'invalid_training_file' }]);
    expect(found).toMatchObject({ complete: false, errors_total: 1 });
  });
});

describe('inspectRows', () => {
  it('shows rows far into a file without tokenising those before, and no more tokens than asked', async () => {
    const rows = { line: ROWS - 1, count: 5, max_tokens: 30 };
    const found = await inspectRows(storage, tokenizer, { ...request, rows }, Number.POSITIVE_INFINITY);
    expect(found.map(({ line }) => line)).toEqual([ROWS - 1, ROWS]);
    const shown = found.flatMap(({ sequences }) => sequences.flatMap(({ tokens }) => tokens));
    expect(shown).toHaveLength(30);
    expect(found[1]!.sequences[0]!.tokens_total).toBeGreaterThan(found[1]!.sequences[0]!.tokens.length);
  });
});

describe('trainingMemory', () => {
  it('grows with packs and rank, and shrinks when activations are computed again', () => {
    const of = (r: number, pack_tokens: number) =>
      trainingMemory(MODEL, { adapter: { r, target_modules: 'all-linear' }, dtype: 'bf16', pack_tokens });
    const [small, long, wide] = [of(8, 512), of(8, 2048), of(16, 512)];
    expect(long.cpu.bytes).toBeGreaterThan(2 * small.cpu.bytes);
    expect(wide.trainable_parameters).toBe(2 * small.trainable_parameters);
    expect(small.cpu.recomputed_bytes).toBeLessThan(small.cpu.bytes);
    expect(small.cuda.recomputed_bytes).toBeLessThan(small.cuda.bytes);
    expect(long.cuda.bytes).toBeGreaterThan(small.cuda.bytes);
    expect(() =>
      trainingMemory(MODEL, { adapter: { r: 8, target_modules: ['nothing'] }, dtype: 'f32', pack_tokens: 8 }),
    ).toThrow('nothing');
  });
});

describe('Inspector', () => {
  it('works one after the other, refuses what is too much, and goes on after a failure', async () => {
    const inspector = new Inspector(MODEL, { kind: 'disk', dir });
    try {
      const short = { ...request, seconds: 0.05 };
      const waiting = Array.from({ length: 8 }, () => inspector.inspect(short));
      expect(() => inspector.inspect(short)).toThrow('Too many files');
      // Another project has places of its own, and its turn comes after the one that runs.
      const order: string[] = [];
      const others = inspector.inspect({ ...short, owner: 'proj_b' }).then(() => order.push('other'));
      void Promise.all(waiting.map((each) => each.then(() => order.push('own'))));
      await others;
      expect(order).toEqual(['own', 'other']);
      for (const { files } of await Promise.all(waiting)) expect(files[0]!.rows).toBeGreaterThan(0);
      const adapter = { r: 8, target_modules: ['nothing'] };
      const bad = { ...request, training: { adapter, dtype: 'f32' as const, pack_tokens: 8 } };
      await expect(inspector.inspect(bad)).rejects.toMatchObject({ status: 400 });
      expect((await inspector.inspect(request)).files[0]!.rows).toBe(ROWS);
    } finally {
      await inspector.close();
    }
  });
});
