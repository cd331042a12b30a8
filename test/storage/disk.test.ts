/** Storage on disk: the common suite, and what only a folder has (temporary files, modes, names). */
import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { openDiskStorage, sweepTemporary } from '../../src/storage/disk.ts';
import { ObjectNotFound, StorageUnavailable } from '../../src/storage/storage.ts';
import { storageSuite } from './storage.suite.ts';

const root = mkdtempSync(path.join(tmpdir(), 'lathe-storage-'));
const temporary = path.join(root, '.tmp');

storageSuite('disk', () => openDiskStorage(root));

afterAll(() => rmSync(root, { recursive: true, force: true }));

describe('disk storage', () => {
  it('leaves no temporary file behind, after success or failure', () => {
    expect(readdirSync(temporary)).toEqual([]); // the suite above ran through both
  });

  it('shows an object only when it is whole', async () => {
    const storage = await openDiskStorage(root);
    let goOn = () => {};
    const paused = new Promise<void>((resolve) => (goOn = resolve));
    const putting = storage.put(
      'half/written',
      (async function* () {
        yield Buffer.from('first half, ');
        await paused;
        yield Buffer.from('second half');
      })(),
    );
    await expect.poll(() => readdirSync(temporary).length).toBe(1);
    expect(await storage.head('half/written')).toBeNull();
    goOn();
    await putting;
    expect(await storage.head('half/written')).toEqual({ bytes: 23 });
  });

  it('sweeps what a killed process left when it opens, but nothing that is being written', async () => {
    const [old, fresh] = [path.join(temporary, 'old'), path.join(temporary, 'fresh')];
    writeFileSync(old, 'x');
    writeFileSync(fresh, 'x');
    const twoHoursAgo = Date.now() / 1000 - 7200;
    utimesSync(old, twoHoursAgo, twoHoursAgo);
    await openDiskStorage(root);
    expect(readdirSync(temporary)).toEqual(['fresh']);
    expect(await sweepTemporary(root, 0)).toBe(1);
  });

  it('keeps objects from other users of the machine', async () => {
    const storage = await openDiskStorage(root);
    await storage.put('private/object', Buffer.from('x'));
    expect(statSync(path.join(root, 'private')).mode & 0o077).toBe(0);
    expect(statSync(path.join(root, 'private', 'object')).mode & 0o077).toBe(0);
  });

  it('says so when a key would have to be a folder and an object at once', async () => {
    const storage = await openDiskStorage(root);
    await storage.put('clash/inner', Buffer.from('x'));
    await expect(storage.put('clash', Buffer.from('x'))).rejects.toThrow();
    await expect(storage.put('clash/inner/deeper', Buffer.from('x'))).rejects.toThrow();
    expect(await storage.head('clash')).toBeNull();
    expect(readdirSync(temporary)).toEqual([]);
  });

  it('tells a folder that is not there (a disk that is not mounted) from objects that are not', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'lathe-storage-'));
    const storage = await openDiskStorage(folder);
    await storage.put('a/b', Buffer.from('here'));
    await expect(storage.get('a/c')).rejects.toThrow(ObjectNotFound);
    renameSync(folder, `${folder}-away`);
    mkdirSync(folder); // as an empty mount point
    for (const use of [
      () => storage.get('a/b'),
      () => storage.head('a/b'),
      () => storage.delete('a/b'),
      () => storage.put('a/d', Buffer.from('new')),
    ]) {
      await expect(use()).rejects.toThrow(StorageUnavailable);
    }
    rmdirSync(folder);
    renameSync(`${folder}-away`, folder);
    expect(Buffer.concat(await (await storage.get('a/b')).toArray()).toString()).toBe('here');
    rmSync(folder, { recursive: true });
  });

  // Needs the right to mount; elsewhere the trainer's and the API's tests stand in with the same errors.
  const small = mkdtempSync(path.join(tmpdir(), 'lathe-small-disk-'));
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', small]).status === 0;
  afterAll(() => {
    if (mounted) spawnSync('umount', [small]);
    rmSync(small, { recursive: true, force: true });
  });
  it.runIf(mounted)(
    'a full disk refuses what has no room, keeps what is there and goes on with the room it gets',
    async () => {
      const storage = await openDiskStorage(path.join(small, 'storage'));
      const mebibytes = async function* (count: number) {
        for (let i = 0; i < count; i++) yield randomBytes(1 << 20);
      };
      const kept = await storage.put('kept', mebibytes(3));
      await expect(storage.put('large', mebibytes(3))).rejects.toMatchObject({
        name: 'StorageUnavailable',
        full: true,
      });
      expect(await storage.head('large')).toBeNull();
      expect(readdirSync(path.join(small, 'storage', '.tmp'))).toEqual([]);
      const hash = createHash('sha256');
      for await (const chunk of await storage.get('kept')) hash.update(chunk);
      expect(hash.digest('hex')).toBe(kept.sha256);
      await storage.delete('kept');
      expect(await storage.put('large', mebibytes(3))).toMatchObject({ bytes: 3 << 20 });
    },
  );
});
