/** `lathe models pull` against a small hub of our own that speaks the two routes of the real one. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { PullError, pullModel } from '../../src/commands/pull.ts';
import { loadConfig } from '../../src/config.ts';
import { describeBaseModel } from '../../src/domain/base-models/describe.ts';
import { makeHome, removeHome } from '../helpers/service.ts';

const ID = 'acme/small';
const servers: Server[] = [];
const homes: string[] = [];
let home: string;
let downloads: string[];

beforeEach(() => {
  home = makeHome();
  homes.push(home);
  downloads = [];
});
afterAll(() => {
  for (const server of servers) server.close();
  for (const each of homes) removeHome(each);
});

/** A safetensors file with one tensor of these dimensions. */
function safetensors(shape: number[]): Buffer {
  const bytes = shape.reduce((product, n) => product * n, 4);
  const header = JSON.stringify({ w: { dtype: 'F32', shape, data_offsets: [0, bytes] } });
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, Buffer.from(header), Buffer.alloc(bytes)]);
}

const FILES: Record<string, Buffer> = {
  'config.json': Buffer.from(
    JSON.stringify({ model_type: 'qwen3', max_position_embeddings: 128, tie_word_embeddings: true }),
  ),
  'tokenizer.json': Buffer.from('{}'),
  'model.safetensors': safetensors([3, 5]),
  'pytorch_model.bin': Buffer.from('pickle'),
  'modeling_evil.py': Buffer.from('import os'),
  'README.md': Buffer.from('# small'),
};

/** Serves FILES, changed by `change`; `announced` is what the listing claims about a file's bytes. */
async function hub(
  change: Record<string, Buffer | null> = {},
  announced: Record<string, Buffer> = {},
  status = 200,
) {
  const files = Object.entries({ ...FILES, ...change }).filter(
    (pair): pair is [string, Buffer] => pair[1] !== null,
  );
  const server = createServer((request, response) => {
    const url = decodeURIComponent(request.url!.split('?')[0]!);
    if (status !== 200) return response.writeHead(status).end('{"error":"no"}');
    if (url === `/api/models/${ID}/tree/main`) {
      const list = files.map(([name, bytes]) => {
        const claim = announced[name] ?? bytes;
        const blob = createHash('sha1').update(`blob ${claim.length}\0`).update(claim).digest('hex');
        const lfs = {
          oid: createHash('sha256').update(claim).digest('hex'),
          size: claim.length,
          pointerSize: 130,
        };
        const large = name.endsWith('.safetensors') && { lfs };
        return { type: 'file', path: name, size: claim.length, oid: blob, ...large };
      });
      return response.setHeader('content-type', 'application/json').end(JSON.stringify(list));
    }
    const found = files.find(([name]) => url === `/${ID}/resolve/main/${name}`);
    if (!found) return response.writeHead(404).end();
    const [name, bytes] = found;
    const [, from, to] = /bytes=(\d+)-(\d*)/.exec(request.headers.range ?? '') ?? [];
    const part = from === undefined ? bytes : bytes.subarray(Number(from), to ? Number(to) + 1 : undefined);
    const headers = { etag: `"${name}"`, 'content-length': part.length, 'accept-ranges': 'bytes' };
    const range = from !== undefined && {
      'content-range': `bytes ${from}-${Number(from) + part.length - 1}/${bytes.length}`,
    };
    if (request.method !== 'HEAD' && part.length > 1) downloads.push(name);
    response.writeHead(from === undefined ? 200 : 206, { ...headers, ...range });
    response.end(request.method === 'HEAD' ? undefined : part);
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const pull = (hubUrl: string, id = ID) => pullModel(loadConfig({}, { home, hubUrl }), id, 'main', () => {});
const folder = () => path.join(home, 'models', ID);

describe('models pull', () => {
  it('fetches configuration, tokenizer and safetensors, and nothing that could run', async () => {
    const source = await pull(await hub());
    expect(source).toEqual({ id: ID, location: folder() });
    expect(readdirSync(folder()).sort()).toEqual(['config.json', 'model.safetensors', 'tokenizer.json']);
    expect(readFileSync(path.join(folder(), 'model.safetensors'))).toEqual(FILES['model.safetensors']);
    expect(await describeBaseModel(source)).toMatchObject({
      family: 'qwen3',
      parameterCount: 15,
      contextLength: 128,
    });
  });

  it('fetches only what is missing or damaged the second time', async () => {
    const url = await hub();
    await pull(url);
    downloads = [];
    writeFileSync(path.join(folder(), 'tokenizer.json'), '[]');
    await pull(url);
    expect(new Set(downloads)).toEqual(new Set(['config.json', 'tokenizer.json'])); // config.json is read to check it
    expect(readFileSync(path.join(folder(), 'tokenizer.json'), 'utf8')).toBe('{}');
  });

  it('replaces a model whole: leftover files go, and an interruption leaves no model', async () => {
    const sharded = { 'model.safetensors': null, 'model-1.safetensors': safetensors([2, 2]) };
    await pull(await hub({ ...sharded, 'generation_config.json': Buffer.from('{}') }));
    writeFileSync(path.join(folder(), 'notes.txt'), 'mine');
    await expect(pull(await hub({}, { 'model.safetensors': safetensors([9]) }))).rejects.toThrow(PullError);
    expect(existsSync(path.join(folder(), 'config.json'))).toBe(false);
    await pull(await hub());
    expect(readdirSync(folder()).sort()).toEqual([
      'config.json',
      'model.safetensors',
      'notes.txt',
      'tokenizer.json',
    ]);
  });

  it('refuses bytes that are not those announced, and leaves the folder incomplete', async () => {
    const other = safetensors([3, 5]);
    other[other.length - 1] = 1;
    await expect(pull(await hub({}, { 'model.safetensors': other }))).rejects.toThrow(
      /came with other bytes/,
    );
    expect(existsSync(path.join(folder(), 'config.json'))).toBe(false);
    expect(readdirSync(folder()).filter((name) => name.includes('partial'))).toEqual([]);
  });

  it('says in a sentence what is wrong', async () => {
    const cases: [Promise<string> | string, RegExp, string?][] = [
      [
        hub({ 'config.json': Buffer.from('{"model_type":"bert","max_position_embeddings":1}') }),
        /model_type 'bert'; Lathe knows qwen3/,
      ],
      [hub({ 'model.safetensors': null }), /no \.safetensors file; other weight formats are not read/],
      [hub({ 'tokenizer.json': null }), /has no tokenizer\.json/],
      [hub({}, {}, 404), /has no model acme\/small/],
      [hub({}, {}, 401), /does not let us read acme\/small: set HF_TOKEN/],
      [hub({}, {}, 500), /answered 500/],
      ['http://127.0.0.1:9', /Cannot reach http:\/\/127\.0\.0\.1:9 .*LATHE_BASE_MODELS=acme\/small=/],
      ['http://127.0.0.1:9', /'\.\.\/x' is not a model id/, '../x'],
    ];
    for (const [url, message, id] of cases)
      await expect(pull(await url, id), String(message)).rejects.toThrow(message);
    await expect(pull('http://127.0.0.1:9')).rejects.toThrow(PullError);
  });
});
