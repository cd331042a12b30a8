/** Objects and pieces of memory read as one: whole, in every range, and when one of them is not what it was. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { openDiskStorage } from '../../src/storage/disk.ts';
import { readSegments, type Segment, segmentsLength } from '../../src/storage/segments.ts';
import { ObjectNotFound, type Storage } from '../../src/storage/storage.ts';

let [dir, storage]: [string, Storage] = ['', null as never];
beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'lathe-segments-'));
  storage = await openDiskStorage(dir);
  for (const [key, text] of Object.entries({ a: 'hello ', b: '', c: 'there, friend' }))
    await storage.put(key, Buffer.from(text));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

const WHOLE = 'say: hello there, friend!';
const segments = (): Segment[] => [
  Buffer.from('say: '),
  { key: 'a', bytes: 6 },
  { key: 'b', bytes: 0 },
  new Uint8Array(),
  { key: 'c', bytes: 13 },
  Buffer.from('!'),
];
async function read(list: Segment[], range?: { start: number; end?: number }): Promise<string> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of readSegments(storage, list, range)) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

it('reads the whole and every range of it', async () => {
  expect(segmentsLength(segments())).toBe(WHOLE.length);
  expect(await read(segments())).toBe(WHOLE);
  for (let start = 0; start < WHOLE.length; start++) {
    expect(await read(segments(), { start })).toBe(WHOLE.slice(start));
    for (let end = start; end < WHOLE.length; end++)
      expect(await read(segments(), { start, end })).toBe(WHOLE.slice(start, end + 1));
  }
});

it('fails when an object is gone, shorter or longer than it was', async () => {
  await expect(read([{ key: 'gone', bytes: 3 }])).rejects.toThrow(ObjectNotFound);
  await expect(read([{ key: 'a', bytes: 7 }])).rejects.toThrow('gave 6 bytes where 7 were expected');
  await expect(read([{ key: 'a', bytes: 5 }])).rejects.toThrow('gave 6 bytes where 5 were expected');
});

it('opens one object at a time, and none that is outside of the range', async () => {
  const opened: string[] = [];
  const watched = {
    get: (key: string, range?: { start: number; end?: number }) => {
      opened.push(key);
      return storage.get(key, range);
    },
  };
  const reading = readSegments(watched, segments());
  await reading.next();
  expect(opened).toEqual([]);
  await reading.next();
  expect(opened).toEqual(['a']);
  await reading.return(undefined);
  for await (const _ of readSegments(watched, segments(), { start: 12, end: 14 }));
  expect(opened).toEqual(['a', 'c']);
});
