/**
 * The API dies while parts arrive and while they are put together: parts that were acknowledged are still there, the
 * next process completes the Upload, and a sweep takes what the dead one left. Its memory stays small meanwhile.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readdir, stat, utimes } from 'node:fs/promises';
import { request } from 'node:http';
import path from 'node:path';
import OpenAI, { toFile } from 'openai';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { sweepOnce } from '../../src/domain/sweep/run.ts';
import { useApp } from '../helpers/app.ts';

const MB = 1024 * 1024;
const t = useApp();
let child: ChildProcess;
let client: OpenAI;

async function start(): Promise<void> {
  child = fork(path.join(import.meta.dirname, 'upload-child.ts'), [t.database.url, t.storageDir]);
  const [message] = await once(child, 'message');
  const baseURL = `${(message as { url: string }).url}/v1`;
  client = new OpenAI({ apiKey: t.alice.key, baseURL, maxRetries: 0 });
}
beforeEach(start);
afterEach(() => child.kill('SIGKILL'));

async function memory(): Promise<{ now: number; most: number }> {
  child.send('memory');
  return (await once(child, 'message'))[0] as { now: number; most: number };
}

const create = (bytes: number) =>
  client.uploads.create({
    bytes,
    filename: 'big.bin',
    purpose: 'evals',
    mime_type: 'application/octet-stream',
  });
const addPart = async (id: string, bytes: Buffer) =>
  (await client.uploads.parts.create(id, { data: await toFile(bytes, 'part') })).id;
const temporary = () => readdir(path.join(t.storageDir, '.tmp'));
async function objects(): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of t.storage.list('projects/')) found.push(key);
  return found;
}

it('loses no acknowledged part and leaves nothing for ever', { timeout: 120_000 }, async () => {
  const parts = [48, 32, 17].map((mb) => randomBytes(mb * MB + 1));
  const upload = await create(parts.reduce((sum, { length }) => sum + length, 0));
  const ids = await Promise.all(parts.map((bytes) => addPart(upload.id, bytes)));

  // Killed while a fourth part arrives: half of it is there.
  const sending = request(`${client.baseURL}/uploads/${upload.id}/parts`, {
    method: 'POST',
    headers: { authorization: `Bearer ${t.alice.key}`, 'content-type': 'multipart/form-data; boundary=b' },
  });
  sending.on('error', () => {}); // the server is killed
  sending.write('--b\r\ncontent-disposition: form-data; name="data"; filename="blob"\r\n\r\n');
  sending.write(randomBytes(2 * MB));
  await vi.waitFor(async () => expect(await temporary()).toHaveLength(1), { timeout: 20_000 });
  child.kill('SIGKILL');
  await new Promise((resolve) => sending.once('close', resolve));
  await start();

  // Killed while the parts are put together.
  const completing = client.uploads.complete(upload.id, { part_ids: ids }).catch(() => null);
  const before = new Set(await temporary());
  await vi.waitFor(
    async () => {
      const file = (await temporary()).find((name) => !before.has(name));
      expect((await stat(path.join(t.storageDir, '.tmp', file!))).size).toBeGreaterThan(0);
    },
    { timeout: 20_000, interval: 1 },
  );
  child.kill('SIGKILL');
  expect(await completing).toBeNull();
  expect((await objects()).length).toBe(3);
  expect((await temporary()).length).toBe(2);
  await start();

  const done = await client.uploads.complete(upload.id, { part_ids: ids });
  expect(done.status).toBe('completed');
  const hash = createHash('sha256');
  const content = await client.files.content(done.file!.id);
  for await (const chunk of content.body as unknown as AsyncIterable<Uint8Array>) hash.update(chunk);
  const expected = createHash('sha256');
  for (const part of parts) expected.update(part);
  expect(hash.digest('hex')).toBe(expected.digest('hex'));

  const long = new Date(Date.now() - 2 * 86_400_000);
  for (const name of await temporary()) await utimes(path.join(t.storageDir, '.tmp', name), long, long);
  const report = await sweepOnce(t);
  expect(report.removed).toEqual({ 'broken-off writes': 2 });
  expect(await temporary()).toEqual([]);
  expect(await objects()).toEqual([`projects/${t.alice.projectId}/files/${done.file!.id}`]);
});

it('takes and joins parts in little memory', { timeout: 120_000 }, async () => {
  const part = randomBytes(48 * MB);
  const before = await memory();
  const upload = await create(4 * part.length);
  const ids = await Promise.all([1, 2, 3, 4].map(() => addPart(upload.id, part)));
  const joining = performance.now();
  const done = await client.uploads.complete(upload.id, { part_ids: ids });
  const seconds = (performance.now() - joining) / 1000;
  expect(done.file?.bytes).toBe(192 * MB);
  const { most } = await memory();
  console.info(
    JSON.stringify({
      join_mb_per_s: Math.round(192 / seconds),
      rss_growth_mb: Math.round((most - before.now) / MB),
    }),
  );
  expect((most - before.now) / MB).toBeLessThan(120); // four parts at once have 192
});
