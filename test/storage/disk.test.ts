/** Storage on disk: the common suite, and what only a folder has (temporary files, modes, names). */
import { mkdtempSync, readdirSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { openDiskStorage, sweepTemporary } from '../../src/storage/disk.ts';
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
});
