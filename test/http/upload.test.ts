/**
 * A file of 512 MB, the limit, through the API in a process of its own: its memory stays small, the bytes come back as
 * they went in, and a client that leaves half-way leaves nothing.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { request } from 'node:http';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { useApp } from '../helpers/app.ts';

const MB = 1024 * 1024;
const t = useApp();
let child: ChildProcess;
let url: string;

beforeAll(async () => {
  child = fork(path.join(import.meta.dirname, 'upload-child.ts'), [t.database.url, t.storageDir]);
  const [message] = await once(child, 'message');
  url = (message as { url: string }).url;
});
afterAll(() => child?.disconnect());

async function memory(): Promise<{ now: number; most: number }> {
  child.send('memory');
  return (await once(child, 'message'))[0] as { now: number; most: number };
}

/** One megabyte of JSON lines. */
const block = (() => {
  const line = `${JSON.stringify({
    messages: [
      { role: 'user', content: 'q'.repeat(900) },
      { role: 'assistant', content: 'é"\n' },
    ],
  })}\n`;
  const lines = line.repeat(Math.floor(MB / Buffer.byteLength(line)));
  return Buffer.from(`${lines}{"pad":"${'p'.repeat(MB - Buffer.byteLength(lines) - 11)}"}\n`);
})();

/** Sends `blocks` blocks as one chunked form, file before purpose as the Node SDK does; or hangs up before its end. */
async function upload(blocks: number, options: { hangUp?: boolean } = {}) {
  const sent = request(`${url}/v1/files`, {
    method: 'POST',
    headers: { authorization: `Bearer ${t.alice.key}`, 'content-type': 'multipart/form-data; boundary=b' },
  });
  const answered = once(sent, 'response');
  sent.write('--b\r\ncontent-disposition: form-data; name="file"; filename="big.jsonl"\r\n\r\n');
  for (let i = 0; i < blocks; i++) if (!sent.write(block)) await once(sent, 'drain');
  if (options.hangUp) {
    answered.catch(() => {});
    sent.destroy();
    return null;
  }
  sent.end('\r\n--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b--\r\n');
  const [response] = await answered;
  return JSON.parse(Buffer.concat(await response.toArray()).toString());
}

it('takes and returns 512 MB in little memory', { timeout: 300_000 }, async () => {
  expect(block.byteLength).toBe(MB);
  const before = await memory();
  const started = performance.now();
  const file = await upload(512);
  const seconds = (performance.now() - started) / 1000;
  const during = await memory();
  expect(file).toMatchObject({
    object: 'file',
    bytes: 512 * MB,
    filename: 'big.jsonl',
    purpose: 'fine-tune',
  });
  expect((during.most - before.now) / MB).toBeLessThan(80);

  const response = await fetch(`${url}/v1/files/${file.id}/content`, {
    headers: { authorization: `Bearer ${t.alice.key}` },
  });
  const hash = createHash('sha256');
  for await (const chunk of response.body ?? []) hash.update(chunk);
  const expected = createHash('sha256');
  for (let i = 0; i < 512; i++) expected.update(block);
  expect(hash.digest('hex')).toBe(expected.digest('hex'));
  const after = await memory();
  expect((after.most - before.now) / MB).toBeLessThan(80);
  console.info(
    JSON.stringify({
      upload_mb_per_s: Math.round(512 / seconds),
      rss_growth_mb: Math.round((Math.max(during.most, after.most) - before.now) / MB),
    }),
  );
});

it('keeps nothing of an upload whose client leaves', async () => {
  const before = await t.stored();
  await upload(20, { hangUp: true });
  await expect.poll(() => readdir(path.join(t.storageDir, '.tmp'))).toEqual([]);
  expect((await t.stored()).length).toBe(before.length);
  expect(await upload(1)).toMatchObject({ object: 'file', bytes: MB }); // and the service lives
});
