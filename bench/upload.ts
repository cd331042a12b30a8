/**
 * One large upload through the official SDK: MiB/s, how far the API's memory grows, and whether the bytes come back
 * as they went. The floor is hashing and writing the same bytes to the same disk in this process.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdtemp, open, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import OpenAI from 'openai';
import { machine, options, round, rssMib } from './options.ts';
import { withService } from './service.ts';

const MIB = 1024 * 1024;

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const o = options(args, { mib: 511 });
  const folder = await mkdtemp(join(tmpdir(), 'lathe-upload-'));
  const path = join(folder, 'train.jsonl');
  try {
    const sha256 = await writeRows(path, o.mib * MIB);
    const { size } = await stat(path);
    const floorSeconds = await copyAndHash(path, join(folder, 'copy'));
    return await withService(async ({ url, key, apiPid }) => {
      const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
      const before = rssMib(apiPid);
      let peak = before;
      const watch = setInterval(() => {
        peak = Math.max(peak, rssMib(apiPid));
      }, 20);
      const start = performance.now();
      const file = await client.files.create({ file: createReadStream(path), purpose: 'fine-tune' });
      const elapsed = (performance.now() - start) / 1000;
      clearInterval(watch);
      const content = await client.files.content(file.id);
      const hash = createHash('sha256');
      for await (const chunk of Readable.fromWeb(content.body as Parameters<typeof Readable.fromWeb>[0]))
        hash.update(chunk);
      const speed = size / MIB / elapsed;
      const floor = size / MIB / floorSeconds;
      return {
        ...machine(),
        mib: round(size / MIB, 4),
        mib_per_second: round(speed),
        floor_mib_per_second: round(floor),
        ratio_to_floor: round(speed / floor),
        rss_before_mib: round(before),
        rss_growth_mib: round(peak - before),
        content_equal: hash.digest('hex') === sha256,
      };
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** JSONL of about 1 KiB a row up to `bytes`; returns its sha256. */
async function writeRows(path: string, bytes: number): Promise<string> {
  const hash = createHash('sha256');
  const out = createWriteStream(path);
  let written = 0;
  for (let i = 0; written < bytes - 2 * MIB; i++) {
    const rows = Array.from({ length: 1000 }, (_, j) => {
      const content = `${i * 1000 + j} ${'a row of text for a large file '.repeat(30)}`;
      return JSON.stringify({
        messages: [
          { role: 'user', content },
          { role: 'assistant', content: 'yes' },
        ],
      });
    });
    const chunk = Buffer.from(`${rows.join('\n')}\n`);
    hash.update(chunk);
    written += chunk.length;
    if (!out.write(chunk)) await once(out, 'drain');
  }
  out.end();
  await once(out, 'finish');
  return hash.digest('hex');
}

/** Seconds to read, hash and durably write the file again. */
async function copyAndHash(from: string, to: string): Promise<number> {
  const start = performance.now();
  const hash = createHash('sha256');
  await pipeline(
    createReadStream(from),
    async function* (chunks) {
      for await (const chunk of chunks) {
        hash.update(chunk);
        yield chunk;
      }
    },
    createWriteStream(to),
  );
  const file = await open(to);
  await file.sync();
  await file.close();
  await rm(to);
  return (performance.now() - start) / 1000;
}
