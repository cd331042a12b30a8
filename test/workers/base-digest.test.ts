/** Which base model lies in a folder: the digest follows every file that counts, and is not worked out twice. */
import {
  appendFile,
  cp,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { BaseFilesChanged, digestBase } from '../../workers/base-digest.ts';
import { openWeightFiles, weightFileNames } from '../../workers/engine/io/weight-files.ts';

const SHIPPED = path.join(import.meta.dirname, '..', '..', 'models', 'lathe-tiny');
let root: string;
let model: string;

beforeEach(async () => {
  root = await mkdtemp(path.join(tmpdir(), 'lathe-digest-'));
  model = path.join(root, 'model');
  await cp(SHIPPED, model, { recursive: true });
});
afterEach(async () => {
  vi.restoreAllMocks();
  await rm(root, { recursive: true, force: true });
});

const failed = (error: unknown): never => {
  throw error;
};
const look = (folder = model, onUnremembered: (error: unknown) => void = failed) =>
  digestBase(folder, path.join(root, 'cache'), onUnremembered);
/** As if the files had lain there for a while: those of this moment are not remembered. */
const later = () => vi.spyOn(Date, 'now').mockReturnValue(Date.now() + 10_000);
const WEIGHTS = 'model.safetensors';

/** Flips a bit in place: the same size, and the old time of change. */
async function flip(file: string): Promise<void> {
  const { atime, mtime } = await stat(file);
  const bytes = await readFile(file);
  bytes[bytes.length - 1]! ^= 1;
  await writeFile(file, bytes);
  await utimes(file, atime, mtime);
}

describe('the digest of a base model', () => {
  it('is of what the engine reads, wherever it lies', async () => {
    const { digest, hashedBytes } = await look();
    const { size } = await stat(path.join(model, WEIGHTS));
    expect(digest).toMatch(/^[0-9a-f]{64}$/);
    expect(hashedBytes).toBeGreaterThan(size);
    const copy = path.join(root, 'elsewhere');
    await cp(model, copy, { recursive: true });
    await writeFile(path.join(copy, 'README.md'), 'another text');
    await writeFile(path.join(copy, 'consolidated.safetensors'), 'nobody reads this');
    expect((await look(copy)).digest).toBe(digest);
  });

  it.each([
    'config.json',
    'generation_config.json',
    'tokenizer.json',
    'tokenizer_config.json',
    'chat_template.jinja',
    WEIGHTS,
  ])('follows %s, remembered or not, written in place with its old time', async (name) => {
    later();
    const { digest } = await look();
    expect((await look()).hashedBytes).toBe(0);
    await flip(path.join(model, name));
    const changed = await look();
    expect(changed.digest).not.toBe(digest);
    expect(changed.hashedBytes).toBe((await stat(path.join(model, name))).size);
    await flip(path.join(model, name));
    expect((await look()).digest).toBe(digest);
  });

  it('follows files that come and go', async () => {
    const { digest } = await look();
    await rm(path.join(model, 'chat_template.jinja'));
    expect((await look()).digest).not.toBe(digest);
  });

  it('does not trust the time of a file that was written a moment ago', async () => {
    await look();
    expect((await look()).hashedBytes).toBeGreaterThan(0);
    later();
    await look();
    expect((await look()).hashedBytes).toBe(0);
  });

  it('is worked out again where its memory is lost or spoiled, and without one that can be written', async () => {
    later();
    const { digest } = await look();
    const [memory] = await readdir(path.join(root, 'cache'));
    await writeFile(path.join(root, 'cache', memory!), '{"a":');
    expect(await look()).toMatchObject({ digest, hashedBytes: expect.any(Number) });
    expect((await look()).hashedBytes).toBe(0);
    await rm(path.join(root, 'cache'), { recursive: true });
    await writeFile(path.join(root, 'cache'), 'a file where the folder should be');
    const told: unknown[] = [];
    await expect(look(model, (error) => told.push(error))).rejects.toMatchObject({ code: 'ENOTDIR' });
  });

  it('reads the index and its shards, and nothing beside them', async () => {
    const names = [...openWeightFiles(model).names()];
    await cp(path.join(model, WEIGHTS), path.join(model, 'model-00001-of-00001.safetensors'));
    const index = {
      weight_map: Object.fromEntries(names.map((n) => [n, 'model-00001-of-00001.safetensors'])),
    };
    await writeFile(path.join(model, 'model.safetensors.index.json'), JSON.stringify(index));
    expect(weightFileNames(model)).toEqual([WEIGHTS]); // what openWeightFiles reads while it is there
    await rm(path.join(model, WEIGHTS));
    expect(weightFileNames(model)).toEqual([
      'model.safetensors.index.json',
      'model-00001-of-00001.safetensors',
    ]);
    const { digest } = await look();
    await flip(path.join(model, 'model-00001-of-00001.safetensors'));
    expect((await look()).digest).not.toBe(digest);
    await rm(path.join(model, 'model-00001-of-00001.safetensors'));
    await expect(look()).rejects.toMatchObject({ code: 'ENOENT' });
    await rm(path.join(model, 'model.safetensors.index.json'));
    await expect(look()).rejects.toThrow('holds neither model.safetensors');
  });

  it('says when the folder was replaced after the look', async () => {
    const files = await look();
    await files.verify();
    const copy = path.join(root, 'copy');
    await cp(model, copy, { recursive: true });
    await rename(model, path.join(root, 'old'));
    await rename(copy, model); // the same bytes, but not the files that were looked at
    await expect(files.verify()).rejects.toBeInstanceOf(BaseFilesChanged);
    const again = await look();
    expect(again.digest).toBe(files.digest);
    await appendFile(path.join(model, WEIGHTS), 'x');
    await expect(again.verify()).rejects.toThrow('were replaced while it was being opened');
  });
});
