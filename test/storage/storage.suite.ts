/**
 * What every storage must do, run against the disk and against a real S3 server by the two test files beside this one.
 */
import { createHash, randomBytes } from 'node:crypto';
import { buffer } from 'node:stream/consumers';
import { describe, expect, it } from 'vitest';
import { readSegments } from '../../src/storage/segments.ts';
import { ObjectNotFound, type Storage } from '../../src/storage/storage.ts';

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

/** `open` gives the same store each time it is called. */
export function storageSuite(name: string, open: () => Promise<Storage>): void {
  describe(`storage on ${name}`, () => {
    const folder = `t-${randomBytes(6).toString('hex')}`;
    const read = async (key: string, range?: { start: number; end?: number }) =>
      buffer(await (await open()).get(key, range));
    const keys = async (prefix: string) => {
      const found: string[] = [];
      for await (const { key } of (await open()).list(prefix)) found.push(key);
      return found.sort();
    };

    it('returns what was put, with its size and sha256', async () => {
      const storage = await open();
      const bytes = randomBytes(100_000);
      expect(await storage.put(`${folder}/bytes`, bytes)).toEqual({ bytes: 100_000, sha256: sha256(bytes) });
      expect(await read(`${folder}/bytes`)).toEqual(bytes);
      expect(await storage.head(`${folder}/bytes`)).toEqual({ bytes: 100_000 });
    });

    it('takes a stream of chunks of any size, larger than one part', async () => {
      const storage = await open();
      const bytes = randomBytes(20 * 1024 * 1024 + 17);
      const sizes = [1, 65_536, 7, 9 * 1024 * 1024, 300_000];
      async function* body() {
        for (let at = 0, i = 0; at < bytes.length; i++) {
          const size = sizes[i % sizes.length]!;
          yield bytes.subarray(at, at + size);
          at += size;
        }
      }
      expect(await storage.put(`${folder}/stream`, body())).toEqual({
        bytes: bytes.length,
        sha256: sha256(bytes),
      });
      expect(sha256(await read(`${folder}/stream`))).toBe(sha256(bytes));
    });

    it('stores nothing at all as an object of zero bytes', async () => {
      const storage = await open();
      const empty = { bytes: 0, sha256: sha256(new Uint8Array()) };
      expect(await storage.put(`${folder}/empty`, new Uint8Array())).toEqual(empty);
      expect(await storage.put(`${folder}/empty-stream`, (async function* () {})())).toEqual(empty);
      for (const key of ['empty', 'empty-stream']) {
        expect(await read(`${folder}/${key}`)).toHaveLength(0);
        expect(await storage.head(`${folder}/${key}`)).toEqual({ bytes: 0 });
      }
    });

    it('reads ranges with both ends inclusive', async () => {
      const storage = await open();
      await storage.put(`${folder}/range`, Buffer.from('0123456789'));
      expect(String(await read(`${folder}/range`, { start: 0, end: 0 }))).toBe('0');
      expect(String(await read(`${folder}/range`, { start: 3, end: 5 }))).toBe('345');
      expect(String(await read(`${folder}/range`, { start: 7 }))).toBe('789');
      expect(String(await read(`${folder}/range`, { start: 8, end: 1000 }))).toBe('89');
      await expect(storage.get(`${folder}/range`, { start: 10 })).rejects.toThrow(RangeError);
    });

    it('tells missing objects apart from empty ones', async () => {
      const storage = await open();
      await expect(storage.get(`${folder}/nothing`)).rejects.toThrow(ObjectNotFound);
      await expect(storage.get(`${folder}/nothing`, { start: 1, end: 2 })).rejects.toThrow(ObjectNotFound);
      expect(await storage.head(`${folder}/nothing`)).toBeNull();
    });

    it('deletes, also what is not there', async () => {
      const storage = await open();
      await storage.put(`${folder}/gone`, Buffer.from('x'));
      await storage.delete(`${folder}/gone`);
      await storage.delete(`${folder}/gone`);
      await storage.delete(`${folder}/never/was`);
      expect(await storage.head(`${folder}/gone`)).toBeNull();
      await expect(storage.get(`${folder}/gone`)).rejects.toThrow(ObjectNotFound);
    });

    it('lists by prefix, with sizes', async () => {
      const storage = await open();
      for (const key of ['a/1', 'a/2', 'a/b/3', 'ab/4', 'c'])
        await storage.put(`${folder}/list/${key}`, Buffer.from(key));
      expect(await keys(`${folder}/list/a/`)).toEqual(
        ['a/1', 'a/2', 'a/b/3'].map((key) => `${folder}/list/${key}`),
      );
      expect(await keys(`${folder}/list/a`)).toHaveLength(4);
      expect(await keys(`${folder}/list/a/b/3`)).toHaveLength(1);
      expect(await keys(`${folder}/list/nothing/`)).toEqual([]);
      for await (const { key, bytes, modified } of storage.list(`${folder}/list/`)) {
        expect(bytes).toBe(key.slice(`${folder}/list/`.length).length);
        expect(Math.abs(modified.getTime() - Date.now())).toBeLessThan(10 * 60_000);
      }
    });

    it('keeps keys with odd characters apart and gives them back as they were', async () => {
      const storage = await open();
      const odd = [
        'space here',
        'plus+and&amp',
        'per%20cent',
        'per cent',
        'Ünïcode-日本語-🙂',
        'quote\'"`',
        '.hidden',
        'dots...',
        'colon:equals=',
        'back\\slash',
        'star*question?',
        'tilde~hash#',
        '.tmp',
      ].map((tail) => `${folder}/odd/${tail}`);
      for (const key of odd) await storage.put(key, Buffer.from(key));
      for (const key of odd) expect(String(await read(key)), key).toBe(key);
      expect(await keys(`${folder}/odd/`)).toEqual([...odd].sort());
    });

    it('refuses keys that could mean another place', async () => {
      const storage = await open();
      const bad = [
        '',
        '/',
        'a//b',
        '/a',
        'a/',
        '..',
        'a/../b',
        './a',
        'a\u0000b',
        'a\nb',
        'x'.repeat(1025),
        '\ud800',
      ];
      for (const key of bad) {
        await expect(async () => storage.put(key, Buffer.from('x')), JSON.stringify(key)).rejects.toThrow(
          'Not a storage key',
        );
        await expect(async () => storage.get(key), JSON.stringify(key)).rejects.toThrow('Not a storage key');
      }
    });

    it('leaves nothing of a put whose source fails', async () => {
      const storage = await open();
      for (const bytesBefore of [10, 12 * 1024 * 1024]) {
        async function* broken() {
          yield randomBytes(bytesBefore);
          throw new Error('the client left');
        }
        await expect(storage.put(`${folder}/broken/${bytesBefore}`, broken())).rejects.toThrow(
          'the client left',
        );
      }
      expect(await keys(`${folder}/broken/`)).toEqual([]);
      // The failed put did not touch what was there before either.
      await storage.put(`${folder}/kept`, Buffer.from('old'));
      await expect(
        storage.put(
          `${folder}/kept`,
          (async function* () {
            yield Buffer.from('ne');
            throw new Error('gone');
          })(),
        ),
      ).rejects.toThrow('gone');
      expect(String(await read(`${folder}/kept`))).toBe('old');
    });

    it('serves 64 puts and gets at once', async () => {
      const storage = await open();
      const bodies = Array.from({ length: 64 }, (_, i) => randomBytes(1000 + i));
      await Promise.all(bodies.map((body, i) => storage.put(`${folder}/many/${i}`, body)));
      const back = await Promise.all(bodies.map((_, i) => read(`${folder}/many/${i}`)));
      expect(back).toEqual(bodies);
      expect(await keys(`${folder}/many/`)).toHaveLength(64);
    });

    it('puts objects together from others while they stream by', async () => {
      const storage = await open();
      const parts = [9, 1, 6].map((mb) => randomBytes(mb * 1024 * 1024 + mb));
      await Promise.all(parts.map((bytes, i) => storage.put(`${folder}/parts/${i}`, bytes)));
      const segments = parts.map((bytes, i) => ({ key: `${folder}/parts/${i}`, bytes: bytes.length }));
      const whole = Buffer.concat(parts);
      const stored = await storage.put(`${folder}/whole`, readSegments(storage, segments));
      expect(stored).toEqual({ bytes: whole.length, sha256: sha256(whole) });
      expect(sha256(await read(`${folder}/whole`))).toBe(sha256(whole));
      const broken = [...segments, { key: `${folder}/parts/none`, bytes: 1 }];
      await expect(storage.put(`${folder}/whole`, readSegments(storage, broken))).rejects.toThrow(
        ObjectNotFound,
      );
      expect(await storage.head(`${folder}/whole`)).toEqual({ bytes: whole.length });
    });

    it('keeps puts and deletes apart that share a folder', async () => {
      const storage = await open();
      await Promise.all(
        Array.from({ length: 40 }, async (_, i) => {
          const key = `${folder}/shared/deep/er/${i % 4}`;
          await storage.put(key, Buffer.from('x'));
          await storage.delete(key);
        }),
      );
      expect(await keys(`${folder}/shared/`)).toEqual([]);
      await storage.put(`${folder}/shared/deep/again`, Buffer.from('x'));
      expect(await storage.removeAbandoned(24 * 3_600_000)).toBe(0);
      expect(await keys(`${folder}/shared/`)).toEqual([`${folder}/shared/deep/again`]);
    });

    it('overwrites in one piece: a reader never sees a mixture', async () => {
      const storage = await open();
      const key = `${folder}/overwritten`;
      const versions = Array.from({ length: 8 }, (_, i) => Buffer.alloc(300_000, i));
      await storage.put(key, versions[0]!);
      let writing = true;
      const writes = (async () => {
        for (const version of versions) await storage.put(key, version);
        writing = false;
      })();
      let reads = 0;
      while (writing) {
        const seen = await read(key);
        expect(seen).toHaveLength(300_000);
        expect(seen.every((byte) => byte === seen[0])).toBe(true);
        reads++;
      }
      await writes;
      expect(reads).toBeGreaterThan(0);
      expect((await read(key))[0]).toBe(7);
    });
  });
}
