/** Residence of adapters in memory and their files on disk: bounds, use counts, failures, checks. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { WireAdapter } from '../../src/inference/protocol.ts';
import { AdapterFiles, type AdapterFilesOptions } from '../../workers/inference/adapter-files.ts';
import { AdapterLoadError, ResidentAdapters } from '../../workers/inference/adapters.ts';
import { openProcessFolder } from '../../workers/process-folder.ts';

describe('resident adapters', () => {
  function create(capacity: number) {
    const log: string[] = [];
    const broken = new Set<string>();
    const clock = { now: 0 };
    const residents = new ResidentAdapters({
      capacity,
      load: (directory) => {
        log.push(`load ${directory}`);
        if (broken.has(directory)) throw new Error(`${directory} is not an adapter`);
        return { name: directory, dispose: () => log.push(`dispose ${directory}`) };
      },
      retryAfterMilliseconds: 1000,
      now: () => clock.now,
    });
    return { residents, log, broken, clock };
  }

  it('loads once, and evicts the least recently used one that nobody uses', () => {
    const { residents, log } = create(2);
    for (const name of ['a', 'b', 'a']) {
      expect(residents.pin(name, name)).toBe(true);
      residents.unpin(name);
    }
    residents.pin('c', 'c');
    expect(log).toEqual(['load a', 'load b', 'dispose b', 'load c']);
    expect(residents.digests).toEqual(['a', 'c']);
  });

  it('has no place while all are in use, and never frees one in use', () => {
    const { residents, log } = create(1);
    residents.pin('a', 'a');
    residents.pin('a', 'a');
    residents.unpin('a');
    expect(residents.pin('b', 'b')).toBe(false);
    expect(residents.get('a').name).toBe('a');
    residents.unpin('a');
    expect(residents.pin('b', 'b')).toBe(true);
    expect(log).toEqual(['load a', 'dispose a', 'load b']);
    expect(() => residents.unpin('a')).toThrow(/without a pin/);
    expect(() => residents.get('a')).toThrow(/without a pin/);
  });

  it('remembers a failure for a while, then tries again; a failure evicts nobody in use', () => {
    const { residents, log, broken, clock } = create(2);
    residents.pin('a', 'a');
    broken.add('x');
    for (const now of [0, 400, 999]) {
      clock.now = now;
      expect(() => residents.pin('x', 'x')).toThrow(AdapterLoadError);
    }
    expect(log).toEqual(['load a', 'load x']);
    clock.now = 1000;
    broken.delete('x');
    expect(residents.pin('x', 'x')).toBe(true);
    expect(residents.get('a').name).toBe('a');
  });
});

const sha256 = (bytes: string | Buffer): string => createHash('sha256').update(bytes).digest('hex');

describe('adapter files', () => {
  let root: string;
  let folders = 0;
  beforeAll(async () => {
    root = await mkdtemp(path.join(tmpdir(), 'lathe-adapter-files-'));
  });
  afterAll(() => rm(root, { recursive: true }));

  function create(objects: Map<string, Buffer>, o: Partial<AdapterFilesOptions> & { hang?: boolean } = {}) {
    const reads: string[] = [];
    const clock = { now: 0 };
    const directory = o.directory ?? path.join(root, String(folders++));
    const files = new AdapterFiles({
      storage: {
        get: async (key) => {
          reads.push(key);
          const bytes = objects.get(key);
          if (!bytes) throw new Error(`Nothing is stored under '${key}'.`);
          if (o.hang) return new Readable({ read: () => undefined });
          return Readable.from([bytes.subarray(0, 3), bytes.subarray(3)]);
        },
      },
      maxBytes: 1e6,
      retryAfterMilliseconds: 1000,
      idleTimeoutMilliseconds: 5000,
      now: () => clock.now,
      ...o,
      directory,
    });
    return { files, reads, clock, directory };
  }

  /** Puts an adapter's objects in place and returns how the API would name it. */
  function publish(objects: Map<string, Buffer>, name: string, size = 100): WireAdapter {
    const contents = {
      'adapter_config.json': Buffer.from(JSON.stringify({ peft_type: 'LORA', name })),
      'adapter_model.safetensors': Buffer.alloc(size, name),
      'metrics.csv': Buffer.from('step,train_loss'),
    };
    const storage_prefix = `projects/p/jobs/${name}/e1/model/`;
    for (const [file, bytes] of Object.entries(contents)) objects.set(storage_prefix + file, bytes);
    const files = Object.entries(contents).map(([file, bytes]) => ({
      name: file,
      bytes: bytes.length,
      sha256: sha256(bytes),
    }));
    return { model_id: `ft:base:acme:${name}:12345678`, digest: sha256(name), storage_prefix, files };
  }

  it('fetches what serving needs, once, however many ask at the same time', async () => {
    const objects = new Map<string, Buffer>();
    const adapter = publish(objects, 'one');
    const { files, reads, directory } = create(objects);
    const folders = await Promise.all([1, 2, 3].map(() => files.acquire(adapter)));
    await files.acquire(adapter);
    expect(reads.map((key) => path.basename(key)).sort()).toEqual([
      'adapter_config.json',
      'adapter_model.safetensors',
    ]);
    expect(await readdir(folders[0]!.directory)).toHaveLength(2);
    expect(await readFile(path.join(folders[0]!.directory, 'adapter_model.safetensors'))).toEqual(
      objects.get(`${adapter.storage_prefix}adapter_model.safetensors`),
    );
    expect(await readdir(directory)).toEqual([adapter.digest]);
  });

  it('refuses changed, short, long and missing bytes, leaving nothing behind', async () => {
    const damage: [string, (bytes: Buffer) => Buffer | null, RegExp][] = [
      [
        'flipped',
        (bytes) => Buffer.concat([bytes.subarray(0, 50), Buffer.from('!'), bytes.subarray(51)]),
        /sha256/,
      ],
      ['short', (bytes) => bytes.subarray(0, 99), /99 bytes instead of 100/],
      ['long', (bytes) => Buffer.concat([bytes, bytes]), /longer than published/],
      ['missing', () => null, /Nothing is stored/],
    ];
    for (const [name, change, message] of damage) {
      const objects = new Map<string, Buffer>();
      const adapter = publish(objects, name);
      const key = `${adapter.storage_prefix}adapter_model.safetensors`;
      const changed = change(objects.get(key)!);
      if (changed) objects.set(key, changed);
      else objects.delete(key);
      const { files, directory } = create(objects);
      await expect(files.acquire(adapter)).rejects.toThrow(message);
      expect(await readdir(directory)).toEqual([]);
    }
  });

  it('refuses a prefix that is not an adapter', async () => {
    const adapter = publish(new Map(), 'full');
    adapter.files = adapter.files.filter((file) => file.name !== 'adapter_config.json');
    const { files } = create(new Map());
    await expect(files.acquire(adapter)).rejects.toThrow(/neither a PEFT adapter/);
  });

  it('gives up a storage that brings nothing', async () => {
    const objects = new Map<string, Buffer>();
    const adapter = publish(objects, 'hang');
    const { files } = create(objects, { hang: true, idleTimeoutMilliseconds: 30 });
    await expect(files.acquire(adapter)).rejects.toThrow(/stopped arriving/);
  });

  it('remembers a failure for a while and recovers afterwards, others unharmed', async () => {
    const objects = new Map<string, Buffer>();
    const [bad, good] = [publish(objects, 'bad'), publish(objects, 'good')];
    const key = `${bad.storage_prefix}adapter_config.json`;
    const right = objects.get(key)!;
    objects.delete(key);
    const { files, reads, clock } = create(objects);
    for (let i = 0; i < 5; i++) {
      await expect(files.acquire(bad)).rejects.toMatchObject({ retryAfterSeconds: 1 });
    }
    expect(reads).toHaveLength(1);
    await files.acquire(good);
    objects.set(key, right);
    clock.now = 1000;
    await files.acquire(bad);
  });

  it('removes the least recently used folder beyond its bound, but none in use', async () => {
    const objects = new Map<string, Buffer>();
    const all = ['a', 'b', 'c', 'd'].map((name) => publish(objects, name, 1000));
    const { files, directory } = create(objects, { maxBytes: 2500 });
    const inUse = await files.acquire(all[0]!);
    for (const adapter of all.slice(1)) (await files.acquire(adapter)).release();
    expect((await readdir(directory)).sort()).toEqual([all[0]!.digest, all[3]!.digest].sort());
    inUse.release();
  });

  it('keeps what it fetched from other users', async () => {
    const objects = new Map<string, Buffer>();
    const adapter = publish(objects, 'private');
    const { files } = create(objects);
    const { directory } = await files.acquire(adapter);
    const modeOf = async (name: string) => (await stat(path.join(directory, name))).mode & 0o777;
    expect(await modeOf('.')).toBe(0o700);
    expect(await modeOf('adapter_model.safetensors')).toBe(0o600);
  });
});

describe('the folder of a process', () => {
  it('is empty and private; folders of dead processes go, those of live ones and of other machines stay', async () => {
    const root = await mkdtemp(path.join(tmpdir(), 'lathe-process-folder-'));
    const own = `${hostname()}-${process.pid}`;
    const dead = spawnSync(process.execPath, ['--version']).pid;
    const stay = [`${hostname()}-${process.ppid}`, `elsewhere-${dead}`];
    for (const name of [own, `${hostname()}-${dead}`, ...stay]) {
      await mkdir(path.join(root, name));
      await writeFile(path.join(root, name, 'left'), 'x');
    }
    expect(await openProcessFolder(root)).toBe(path.join(root, own));
    expect((await readdir(root)).sort()).toEqual([own, ...stay].sort());
    expect(await readdir(path.join(root, own))).toEqual([]);
    expect((await stat(path.join(root, own))).mode & 0o777).toBe(0o700);
    await rm(root, { recursive: true });
  });
});
