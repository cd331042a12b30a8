/** Batches from upload to files, with the official SDK and a scripted worker; the runner is the service's own. */
import { eq, sql } from 'drizzle-orm';
import OpenAI, { ConflictError, NotFoundError } from 'openai';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { batches, batchResults } from '../../src/db/schema-batches.ts';
import { type BatchRunner, startBatchRunner } from '../../src/domain/batches/runner.ts';
import { innerRequests } from '../../src/http/inner-requests.ts';
import { BASE_MODEL, useApp } from '../helpers/app.ts';
import { answerOf, ScriptedWorker } from './scripted-worker.ts';

const t = useApp({ pollMilliseconds: 20, leaseSeconds: 6, heartbeatSeconds: 1 });
const ENDPOINT = '/v1/chat/completions';
let client: OpenAI;
let worker: ScriptedWorker;
let runners: BatchRunner[] = [];

beforeAll(async () => {
  client = new OpenAI({ apiKey: t.alice.key, baseURL: await t.serve() });
  worker = await ScriptedWorker.start(t.database);
});
afterEach(async () => {
  await Promise.all(runners.map((runner) => runner.stop()));
  runners = [];
  worker.health.waiting = 0;
});
afterAll(() => worker?.stop());

const startRunner = () => {
  const runner = startBatchRunner({ ...t, ask: innerRequests(t, { limited: false }) });
  runners.push(runner);
  return runner;
};
const request = (id: string, content: string, fields: object = {}, line: object = {}) =>
  JSON.stringify({
    custom_id: id,
    method: 'POST',
    url: ENDPOINT,
    body: { model: BASE_MODEL, messages: [{ role: 'user', content }], ...fields },
    ...line,
  });
const upload = async (text: string) =>
  (await client.files.create({ file: new File([text], 'in.jsonl'), purpose: 'batch' })).id;
const createBatch = async (lines: string[], fields: object = {}) =>
  client.batches.create({
    input_file_id: await upload(lines.join('\n')),
    endpoint: ENDPOINT,
    completion_window: '24h',
    ...fields,
  });
const ended = (id: string) =>
  vi.waitFor(
    async () => {
      const batch = await client.batches.retrieve(id);
      if (!['completed', 'failed', 'expired', 'cancelled'].includes(batch.status))
        throw new Error(batch.status);
      return batch;
    },
    { timeout: 15_000, interval: 50 },
  );
const linesOf = async (file: string | null | undefined) =>
  file
    ? (await (await client.files.content(file)).text())
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line))
    : [];

/** Answers with the last message's own text. */
const echo = (requestBody: { messages: { content: string | null }[] }) =>
  answerOf([String(requestBody.messages.at(-1)?.content)]);

describe('a batch', () => {
  it('is created as validating, run, and ends with an output and an error file', async () => {
    worker.script = echo;
    const batch = await createBatch(
      [
        request('a', 'first'),
        '',
        request('b', 'second', { temperature: 9 }),
        request('c', 'third', { stream: true }),
        `  ${request('d', 'fourth')}\r`,
      ],
      { metadata: { night: '1' }, output_expires_after: { anchor: 'created_at', seconds: 3600 } },
    );
    expect(batch).toMatchObject({
      object: 'batch',
      endpoint: ENDPOINT,
      status: 'validating',
      completion_window: '24h',
      expires_at: batch.created_at + 86_400,
      metadata: { night: '1' },
      request_counts: { total: 0, completed: 0, failed: 0 },
    });
    startRunner();
    const done = await ended(batch.id);
    expect(done).toMatchObject({
      status: 'completed',
      model: BASE_MODEL,
      errors: null,
      request_counts: { total: 4, completed: 2, failed: 2 },
      usage: { input_tokens: 14, output_tokens: 2, total_tokens: 16 },
    });
    expect(done.completed_at).toBeGreaterThanOrEqual(done.in_progress_at!);
    const output = await linesOf(done.output_file_id);
    expect(output.map((line) => [line.custom_id, line.response.body.choices[0].message.content])).toEqual([
      ['a', 'first'],
      ['d', 'fourth'],
    ]);
    expect(output[0]).toEqual({
      id: expect.stringMatching(/^batch_req_/),
      custom_id: 'a',
      response: {
        status_code: 200,
        request_id: expect.stringMatching(/^req_/),
        body: expect.objectContaining({ object: 'chat.completion', model: BASE_MODEL }),
      },
      error: null,
    });
    const failures = await linesOf(done.error_file_id);
    expect(
      failures.map((line) => [line.custom_id, line.response.status_code, line.response.body.error.param]),
    ).toEqual([
      ['b', 400, 'temperature'],
      ['c', 400, 'stream'],
    ]);
    const file = await client.files.retrieve(done.output_file_id!);
    expect(file).toMatchObject({ purpose: 'batch_output', filename: `${batch.id}_output.jsonl` });
    expect(file.expires_at).toBe(file.created_at + 3600);
    expect(await t.database.db.select().from(batchResults)).toEqual([]);
  });

  it('runs several replicas at once without losing or doubling a line', async () => {
    worker.script = (body) => [20, ...echo(body)];
    const ids = await Promise.all(
      [0, 1, 2].map(async (b) => {
        const lines = Array.from({ length: 40 }, (_, i) => request(`${b}-${i}`, `text ${b} ${i}`));
        return (await createBatch(lines)).id;
      }),
    );
    startRunner();
    startRunner();
    for (const [b, id] of ids.entries()) {
      const done = await ended(id);
      expect(done.request_counts).toEqual({ total: 40, completed: 40, failed: 0 });
      const output = await linesOf(done.output_file_id);
      expect(output.map((line) => line.custom_id)).toEqual(Array.from({ length: 40 }, (_, i) => `${b}-${i}`));
    }
  });

  it('is given back when its runner stops, and goes on where its answers end', async () => {
    const asked: string[] = [];
    worker.script = (body) => {
      asked.push(String(body.messages.at(-1)?.content));
      return [300, ...echo(body)]; // eight at a time: 60 of them last 2 s and more
    };
    const batch = await createBatch(Array.from({ length: 60 }, (_, i) => request(`l${i}`, `s${i}`)));
    const first = startRunner();
    await vi.waitFor(async () => {
      const { request_counts } = await client.batches.retrieve(batch.id);
      expect(request_counts?.completed).toBeGreaterThan(5);
    }, 10_000);
    await first.stop();
    const before = (await client.batches.retrieve(batch.id)).request_counts!.completed;
    expect(before).toBeLessThan(60);
    asked.length = 0;
    startRunner();
    const done = await ended(batch.id);
    expect(done.request_counts).toEqual({ total: 60, completed: 60, failed: 0 });
    expect(asked.length).toBe(60 - before);
    expect((await linesOf(done.output_file_id)).map((line) => line.custom_id)).toHaveLength(60);
  });

  it('a runner that lost its lease writes nothing more', async () => {
    worker.script = (body) => [1_500, ...echo(body)];
    const batch = await createBatch([request('only', 'slow')]);
    startRunner();
    await vi.waitFor(
      async () => expect((await client.batches.retrieve(batch.id)).status).toBe('in_progress'),
      10_000,
    );
    // As if another runner had claimed it.
    await t.database.db
      .update(batches)
      .set({ epoch: sql`epoch + 1`, leaseUntil: sql`clock_timestamp() + interval '3 s'` })
      .where(eq(batches.id, batch.id));
    worker.script = echo;
    const done = await ended(batch.id);
    expect(done.request_counts).toEqual({ total: 1, completed: 1, failed: 0 });
    const [row] = await t.database.db.select().from(batches).where(eq(batches.id, batch.id));
    expect(row?.epoch).toBe(3);
  });
});

describe('a batch over text completions', () => {
  it('runs them as it runs chats', async () => {
    worker.script = () => answerOf(['blue', '.']);
    const line = {
      custom_id: 't',
      method: 'POST',
      url: '/v1/completions',
      body: { model: BASE_MODEL, prompt: 'The sky is' },
    };
    const batch = await client.batches.create({
      input_file_id: await upload(JSON.stringify(line)),
      endpoint: '/v1/completions',
      completion_window: '24h',
    });
    startRunner();
    const done = await ended(batch.id);
    expect(done.request_counts).toEqual({ total: 1, completed: 1, failed: 0 });
    const [output] = await linesOf(done.output_file_id);
    expect(output.response.body).toMatchObject({ object: 'text_completion', choices: [{ text: 'blue.' }] });
  });
});

describe('a busy worker', () => {
  it('that refuses is asked again later, and no line fails for it', async () => {
    let calls = 0;
    worker.script = (body) => {
      calls += 1;
      const busy = { type: 'rate_limit_error', code: 'rate_limit_exceeded', param: null, message: 'Busy.' };
      return calls <= 3 ? { status: 429, ...busy, retry_after_seconds: 1 } : echo(body);
    };
    const batch = await createBatch([request('a', 'x'), request('b', 'y')]);
    startRunner();
    expect((await ended(batch.id)).request_counts).toEqual({ total: 2, completed: 2, failed: 0 });
    expect(calls).toBe(5);
  });

  it('with people waiting gets no request of a batch', async () => {
    worker.script = echo;
    worker.health.waiting = 1;
    const before = worker.requests.length;
    const batch = await createBatch([request('a', 'x')]);
    startRunner();
    await vi.waitFor(
      async () => expect((await client.batches.retrieve(batch.id)).status).toBe('in_progress'),
      10_000,
    );
    await new Promise((resolve) => setTimeout(resolve, 600));
    expect(worker.requests.length).toBe(before);
    worker.health.waiting = 0;
    expect((await ended(batch.id)).status).toBe('completed');
  });

  it('that fails is asked three times, then its failure is the answer', async () => {
    let calls = 0;
    worker.script = () => {
      calls += 1;
      return [...answerOf(['x']).slice(0, 2), 'break'];
    };
    const batch = await createBatch([request('a', 'x')]);
    startRunner();
    // A generation that breaks off is a 503, repeated until the batch is over: cancel ends it.
    await vi.waitFor(() => expect(calls).toBeGreaterThan(1), 10_000);
    await client.batches.cancel(batch.id);
    const done = await ended(batch.id);
    expect([done.status, done.request_counts]).toEqual(['cancelled', { total: 1, completed: 0, failed: 1 }]);
  });
});

describe('an input file', () => {
  it.each<[string, string[], unknown[]]>([
    [
      'a line without custom_id',
      [request('a', 'x'), request('b', 'x', {}, { custom_id: undefined })],
      [[2, 'missing_required_parameter', 'custom_id']],
    ],
    ['a custom_id twice', [request('a', 'x'), request('a', 'y')], [[2, 'duplicate_custom_id', 'custom_id']]],
    ['another endpoint', [request('a', 'x', {}, { url: '/v1/embeddings' })], [[1, 'invalid_url', 'url']]],
    ['another method', [request('a', 'x', {}, { method: 'GET' })], [[1, 'invalid_method', 'method']]],
    [
      'two models',
      [request('a', 'x'), request('b', 'x', { model: 'other' })],
      [[2, 'mismatched_model', 'body.model']],
    ],
    ['an unknown model', [request('a', 'x', { model: 'nobody' })], [[1, 'model_not_found', 'body.model']]],
    [
      'no model',
      ['', request('a', 'x', { model: undefined })],
      [[2, 'missing_required_parameter', 'body.model']],
    ],
    ['a body that is no object', [request('a', 'x', {}, { body: [] })], [[1, 'invalid_type', 'body']]],
    ['a key twice', [`{"custom_id":"a","custom_id":"b"}`], [[1, 'duplicate_parameter', 'custom_id']]],
    ['NUL in a text', [request('a', 'x\u0000y')], [[1, 'invalid_string', 'body.messages[0].content']]],
  ])('with %s fails and says which line', async (_, lines, errors) => {
    const batch = await createBatch(lines);
    startRunner();
    const done = await ended(batch.id);
    expect(done.status).toBe('failed');
    expect(done.errors?.object).toBe('list');
    expect(done.errors?.data?.map((each) => [each.line, each.code, each.param])).toEqual(errors);
    expect([done.output_file_id, done.error_file_id]).toEqual([null, null]);
  });

  it('lists the first hundred faults and no more', async () => {
    const batch = await createBatch(Array.from({ length: 150 }, () => request('same', 'x')));
    startRunner();
    expect((await ended(batch.id)).errors?.data).toHaveLength(100);
  });

  it('keeps its bytes while the batch runs, also when it is deleted', async () => {
    worker.script = (body) => [50, ...echo(body)];
    const batch = await createBatch(Array.from({ length: 12 }, (_, i) => request(`k${i}`, 'x')));
    await client.files.delete(batch.input_file_id);
    startRunner();
    expect((await ended(batch.id)).request_counts).toEqual({ total: 12, completed: 12, failed: 0 });
  });

  it.each([
    ['unknown', async () => 'file-nobody', 'file_not_found'],
    ['for training', async () => (await t.upload('{"messages":[]}')) as string, 'invalid_value'],
    [
      "another project's",
      async () => t.upload(request('a', 'x'), { purpose: 'batch', key: t.bob.key }),
      'file_not_found',
    ],
  ])('that is %s is refused at once', async (_, file, code) => {
    const create = client.batches.create({
      input_file_id: await file(),
      endpoint: ENDPOINT,
      completion_window: '24h',
    });
    await expect(create).rejects.toMatchObject({ status: 400, param: 'input_file_id', code });
  });
});

describe('the end', () => {
  it('by cancel: what is there stays, the rest is named in the error file', async () => {
    worker.script = (body) => [400, ...echo(body)];
    const batch = await createBatch(Array.from({ length: 60 }, (_, i) => request(`c${i}`, 'x')));
    startRunner();
    await vi.waitFor(async () => {
      const { request_counts } = await client.batches.retrieve(batch.id);
      expect(request_counts?.completed).toBeGreaterThan(3);
    }, 10_000);
    const cancelling = await client.batches.cancel(batch.id);
    expect(cancelling.status).toBe('cancelling');
    expect((await client.batches.cancel(batch.id)).cancelling_at).toBe(cancelling.cancelling_at);
    const done = await ended(batch.id);
    expect(done).toMatchObject({ status: 'cancelled', cancelled_at: expect.any(Number) });
    const [output, failures] = [await linesOf(done.output_file_id), await linesOf(done.error_file_id)];
    expect(output.length).toBe(done.request_counts?.completed);
    const names = [...output, ...failures].map((line) => line.custom_id);
    expect(new Set(names).size).toBe(60);
    expect(names).toHaveLength(60);
    expect(failures[0]).toMatchObject({ response: null, error: { code: 'batch_cancelled' } });
    await expect(client.batches.cancel(batch.id)).rejects.toBeInstanceOf(ConflictError);
  });

  it('by cancel before anything ran', async () => {
    const batch = await createBatch([request('a', 'x')]);
    await client.batches.cancel(batch.id);
    startRunner();
    expect(await ended(batch.id)).toMatchObject({ status: 'cancelled', output_file_id: null });
  });

  it('after 24 hours: what has no answer is named as expired', async () => {
    worker.script = echo;
    worker.health.waiting = 1;
    const batch = await createBatch([request('late', 'x')]);
    startRunner();
    await vi.waitFor(
      async () => expect((await client.batches.retrieve(batch.id)).status).toBe('in_progress'),
      10_000,
    );
    await t.database.db
      .update(batches)
      .set({ expiresAt: sql`clock_timestamp()` })
      .where(eq(batches.id, batch.id));
    const done = await ended(batch.id);
    expect(done).toMatchObject({ status: 'expired', expired_at: expect.any(Number) });
    expect(await linesOf(done.error_file_id)).toEqual([
      {
        id: expect.any(String),
        custom_id: 'late',
        response: null,
        error: { code: 'batch_expired', message: expect.stringMatching(/completion window/) },
      },
    ]);
  });
});

describe('lists and parameters', () => {
  it('are paged newest first and show nothing of others', async () => {
    const made = [await createBatch([request('a', 'x')]), await createBatch([request('a', 'x')])];
    const seen: string[] = [];
    for await (const batch of client.batches.list({ limit: 1 })) {
      seen.push(batch.id);
      if (seen.length === 2) break;
    }
    expect(seen).toEqual(made.map((batch) => batch.id).toReversed());
    const stranger = new OpenAI({ apiKey: t.bob.key, baseURL: client.baseURL });
    expect((await stranger.batches.list()).data).toEqual([]);
    await expect(stranger.batches.retrieve(made[0]!.id)).rejects.toBeInstanceOf(NotFoundError);
    await expect(stranger.batches.cancel(made[0]!.id)).rejects.toBeInstanceOf(NotFoundError);
    await expect(client.batches.list({ after: 'batch_nobody' })).rejects.toMatchObject({ param: 'after' });
  });

  it.each([
    [{ endpoint: '/v1/embeddings' }, 'endpoint', 'unsupported_value'],
    [{ endpoint: '/v1/files' }, 'endpoint', 'invalid_value'],
    [{ completion_window: '1h' }, 'completion_window', 'invalid_value'],
    [
      { output_expires_after: { anchor: 'created_at', seconds: 10 } },
      'output_expires_after.seconds',
      'integer_below_min_value',
    ],
    [{ priority: 1 }, 'priority', 'unknown_parameter'],
  ])('%j is refused by name', async (fields, param, code) => {
    const json = { input_file_id: 'file-x', endpoint: ENDPOINT, completion_window: '24h', ...fields };
    const answer = await t.call('POST', '/v1/batches', { json });
    expect([answer.status, answer.json.error.param, answer.json.error.code]).toEqual([400, param, code]);
  });
});
