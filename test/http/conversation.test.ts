import { connect } from 'node:net';
import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';
import { createApp } from '../../src/app.ts';
import { workers } from '../../src/db/schema.ts';
import { newId } from '../../src/ids.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { BASE_MODEL, TEN_ROWS, useApp } from '../helpers/app.ts';
import { adminKeyOf } from './admin-rows.ts';
import { addJob } from './rows.ts';

const t = useApp({ maxBodyBytes: 2_000 });

describe('every answer', () => {
  it("carries OpenAI's headers", async () => {
    const { headers } = await t.call('GET', '/v1/models', { headers: { 'x-client-request-id': 'mine-1' } });
    expect(headers.get('x-request-id')).toMatch(/^req_[0-9A-Za-z]{24}$/);
    expect(headers.get('x-client-request-id')).toBe('mine-1');
    expect(headers.get('openai-version')).toBe('2020-10-01');
    expect(headers.get('openai-processing-ms')).toMatch(/^\d+$/);
    expect(headers.get('openai-organization')).toBe('acme');
    expect(headers.get('openai-project')).toBe(t.alice.projectId);
    expect(headers.get('x-content-type-options')).toBe('nosniff');
  });

  it('carries them when it is an error, also without a key', async () => {
    for (const [path, key] of [
      ['/v1/nothing', undefined],
      ['/v1/models', null],
    ] as const) {
      const { headers, json } = await t.call('GET', path, key === null ? { key } : {});
      expect(headers.get('x-request-id')).toMatch(/^req_/);
      expect(headers.get('x-content-type-options')).toBe('nosniff');
      expect(Object.keys(json.error).toSorted()).toEqual(['code', 'message', 'param', 'type']);
    }
  });

  it("does not echo a client's id that is no header text", async () => {
    const { headers } = await t.call('GET', '/v1/models', { headers: { 'x-client-request-id': 'a b' } });
    expect(headers.get('x-client-request-id')).toBeNull();
  });

  it('never shows what went wrong inside', async () => {
    const put: Storage['put'] = async (_, body) => {
      for await (const _chunk of body as AsyncIterable<Uint8Array>);
      throw new Error('secret path /var/x');
    };
    const broken = { ...t.storage, put };
    const app = createApp({ ...t, storage: broken });
    const body = new FormData();
    body.set('purpose', 'fine-tune');
    body.set('file', new File([TEN_ROWS], 'a.jsonl'));
    const answer = await app.request('/v1/files', {
      method: 'POST',
      body,
      headers: { authorization: `Bearer ${t.alice.key}` },
    });
    const text = await answer.text();
    expect(answer.status).toBe(500);
    expect(JSON.parse(text).error).toMatchObject({ type: 'server_error', param: null });
    expect(text).toContain(answer.headers.get('x-request-id'));
    expect(text).not.toContain('secret');
    expect(t.logged.join('')).toContain('secret path /var/x');
  });
});

describe('URLs without a route', () => {
  it('are 404, or 405 with what is allowed', async () => {
    const unknown = await t.call('GET', '/v1/fine-tunes');
    expect([unknown.status, unknown.json.error]).toEqual([
      404,
      {
        message: 'Unknown request URL: GET /v1/fine-tunes. Please check the URL for typos, or see /docs.',
        type: 'invalid_request_error',
        param: null,
        code: 'unknown_url',
      },
    ]);
    const put = await t.call('PUT', '/v1/files');
    expect([put.status, put.json.error.code, put.headers.get('allow')]).toEqual([
      405,
      'method_not_allowed',
      'GET, POST, HEAD',
    ]);
    const get = await t.call('GET', '/v1/fine_tuning/alpha/graders/run');
    expect([get.status, get.headers.get('allow')]).toEqual([405, 'POST']);
    expect((await t.call('OPTIONS', '/openapi.json')).status).toBe(405);
    expect((await t.call('HEAD', '/v1/models')).status).toBe(200);
    for (const url of ['//v1//models', '/v1/models/', '/V1/models'])
      expect((await t.call('GET', url)).status).toBe(404);
  });
});

describe('bodies', () => {
  const create = (body: RequestInit['body'], headers: Record<string, string> = {}) =>
    t.call('POST', '/v1/fine_tuning/jobs', {
      body,
      headers: { 'content-type': 'application/json', ...headers },
    });

  it('are counted as they arrive, whatever their length is said to be', async () => {
    const big = JSON.stringify({ model: 'x'.repeat(3_000) });
    const told = await create(big, { 'content-length': String(big.length) });
    const chunked = await create(ReadableStream.from([Buffer.from(big)]) as ReadableStream<Uint8Array>);
    for (const answer of [told, chunked]) {
      expect([answer.status, answer.json.error.code]).toEqual([413, 'payload_too_large']);
    }
  });

  it('end the connection when they are refused unread', async () => {
    const { hostname, port } = new URL(await t.serve());
    const socket = connect(Number(port), hostname);
    socket.write(
      `POST /v1/fine_tuning/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${t.alice.key}\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n\r\n{`,
    );
    const answer = Buffer.concat(await socket.toArray()).toString();
    expect(answer).toMatch(/^HTTP\/1\.1 413 /);
    expect(answer).toMatch(/connection: close/i);
  });

  it('are JSON, plain and in UTF-8', async () => {
    const cases: [RequestInit['body'], Record<string, string>, number, string | null][] = [
      ['{}', { 'content-type': 'text/plain' }, 415, 'invalid_content_type'],
      ['{}', { 'content-encoding': 'gzip' }, 415, 'unsupported_content_encoding'],
      ['{"model":', {}, 400, null],
      ['', {}, 400, null],
      [new Uint8Array([0x7b, 0x22, 0xff, 0x22, 0x7d]), {}, 400, null],
      [new Uint8Array([0x22, 0xc0, 0x80, 0x22]), {}, 400, null],
      ['[]', {}, 400, 'invalid_type'],
      ['null', {}, 400, 'invalid_type'],
      ['"x"', {}, 400, 'invalid_type'],
    ];
    for (const [body, headers, status, code] of cases) {
      const answer = await create(body, headers);
      expect([String(body), answer.status, answer.json.error.code]).toEqual([String(body), status, code]);
    }
    const bom = await create('\ufeff{}');
    expect(bom.json.error.code).toBe('missing_required_parameter');
  });
});

describe('operation', () => {
  it('is alive and, with a worker, ready', async () => {
    expect((await t.call('GET', '/healthz', { key: null })).json).toEqual({ status: 'ok' });
    const before = await t.call('GET', '/readyz', { key: null });
    expect([before.status, before.json]).toEqual([
      503,
      { status: 'not_ready', database: true, storage: true, workers: { trainer: 0, inference: 0 } },
    ]);
    await t.database.db.insert(workers).values({
      id: newId('worker_'),
      kind: 'trainer',
      device: 'cpu',
      host: 'h',
      pid: 1,
      state: 'ready',
    });
    const after = await t.call('GET', '/readyz', { key: null });
    expect([after.status, after.json.status, after.json.workers]).toEqual([
      200,
      'ready',
      { trainer: 1, inference: 0 },
    ]);
  });

  it('is not ready without storage or database', async () => {
    const storage = { ...t.storage, head: () => Promise.reject(new Error('gone')) } as Storage;
    const answer = await createApp({ ...t, storage }).request('/readyz');
    expect([answer.status, await answer.json()]).toMatchObject([503, { storage: false, database: true }]);
  });

  it('counts requests by route and jobs by status, without ids', async () => {
    const id = await addJob(t, t.alice);
    await t.call('GET', `/v1/fine_tuning/jobs/${id}`);
    const { key } = await adminKeyOf(t, t.alice);
    const { text, headers } = await t.call('GET', '/metrics', { key });
    expect(headers.get('content-type')).toMatch(/^text\/plain/);
    expect(text).toMatch(
      /lathe_http_request_duration_seconds_count\{method="GET",route="\/v1\/fine_tuning\/jobs\/:fine_tuning_job_id",status="200"\} 1/,
    );
    expect(text).toMatch(/lathe_jobs\{status="validating_files"\} 1/);
    expect(text).toMatch(/lathe_queue_depth 1/);
    expect(text).toMatch(/process_resident_memory_bytes/);
    expect(text).not.toContain(id);
    expect(text).not.toContain(BASE_MODEL);
  });

  it('answers 503 while the database is away', async () => {
    const { port } = new URL(t.database.url);
    const gone = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });
    const database = {
      ...t.database,
      db: new Proxy(t.database.db, {
        get: () => () => {
          throw new Error(`Failed query on ${port}`, { cause: gone });
        },
      }),
    };
    const answer = await createApp({ ...t, database }).request('/v1/models', {
      headers: { authorization: `Bearer ${t.alice.key}` },
    });
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '1']);
    expect(await answer.text()).not.toContain('ECONNREFUSED');
    expect((await t.database.db.execute(sql`select 1 as one`)).rows).toEqual([{ one: 1 }]);
  });

  it('serves its documentation from this machine', async () => {
    const page = await t.call('GET', '/docs', { key: null });
    expect(page.headers.get('content-type')).toMatch(/^text\/html/);
    expect(page.text).not.toMatch(/https?:\/\//);
    for (const [, url] of page.text.matchAll(/(?:src|href)="([^"]+)"/g)) {
      expect((await t.call('GET', url ?? '', { key: null })).status).toBe(200);
    }
    expect((await t.call('GET', '/docs/index.js', { key: null })).status).toBe(404);
  });
});
