/** What a batch may be made of, and how batches are listed. */
import OpenAI, { NotFoundError } from 'openai';
import { describe, expect, it } from 'vitest';
import { ENDPOINT, echo, request, useBatches } from './batch-service.ts';

const { t, there, startRunner, createBatch, ended } = useBatches();

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
    there.worker.script = (body) => [50, ...echo(body)];
    const batch = await createBatch(Array.from({ length: 12 }, (_, i) => request(`k${i}`, 'x')));
    await there.client.files.delete(batch.input_file_id);
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
    const create = there.client.batches.create({
      input_file_id: await file(),
      endpoint: ENDPOINT,
      completion_window: '24h',
    });
    await expect(create).rejects.toMatchObject({ status: 400, param: 'input_file_id', code });
  });
});

describe('lists and parameters', () => {
  it('are paged newest first and show nothing of others', async () => {
    const made = [await createBatch([request('a', 'x')]), await createBatch([request('a', 'x')])];
    const seen: string[] = [];
    for await (const batch of there.client.batches.list({ limit: 1 })) {
      seen.push(batch.id);
      if (seen.length === 2) break;
    }
    expect(seen).toEqual(made.map((batch) => batch.id).toReversed());
    const stranger = new OpenAI({ apiKey: t.bob.key, baseURL: there.client.baseURL });
    expect((await stranger.batches.list()).data).toEqual([]);
    await expect(stranger.batches.retrieve(made[0]!.id)).rejects.toBeInstanceOf(NotFoundError);
    await expect(stranger.batches.cancel(made[0]!.id)).rejects.toBeInstanceOf(NotFoundError);
    await expect(there.client.batches.list({ after: 'batch_nobody' })).rejects.toMatchObject({
      param: 'after',
    });
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
