/** Batches from upload to files, with the official SDK and a scripted worker; the runner is the service's own. */
import { eq, sql } from 'drizzle-orm';
import { describe, expect, it, vi } from 'vitest';
import { batches, batchResults } from '../../src/db/schema-batches.ts';
import { BASE_MODEL } from '../helpers/app.ts';
import { ENDPOINT, echo, request, useBatches } from './batch-service.ts';
import { answerOf } from './scripted-worker.ts';

const { t, there, startRunner, upload, createBatch, begun, ended, linesOf } = useBatches();

describe('a batch', () => {
  it('is created as validating, run, and ends with an output and an error file', async () => {
    there.worker.script = echo;
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
    const file = await there.client.files.retrieve(done.output_file_id!);
    expect(file).toMatchObject({ purpose: 'batch_output', filename: `${batch.id}_output.jsonl` });
    expect(file.expires_at).toBe(file.created_at + 3600);
    expect(await t.database.db.select().from(batchResults)).toEqual([]);
  });

  it('runs several replicas at once without losing or doubling a line', async () => {
    there.worker.script = (body) => [20, ...echo(body)];
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
    there.worker.script = (body) => {
      asked.push(String(body.messages.at(-1)?.content));
      return [300, ...echo(body)]; // eight at a time: 60 of them last 2 s and more
    };
    const batch = await createBatch(Array.from({ length: 60 }, (_, i) => request(`l${i}`, `s${i}`)));
    const first = startRunner();
    await vi.waitFor(async () => {
      const { request_counts } = await there.client.batches.retrieve(batch.id);
      expect(request_counts?.completed).toBeGreaterThan(5);
    }, 10_000);
    await first.stop();
    const before = (await there.client.batches.retrieve(batch.id)).request_counts!.completed;
    expect(before).toBeLessThan(60);
    asked.length = 0;
    startRunner();
    const done = await ended(batch.id);
    expect(done.request_counts).toEqual({ total: 60, completed: 60, failed: 0 });
    expect(asked.length).toBe(60 - before);
    expect((await linesOf(done.output_file_id)).map((line) => line.custom_id)).toHaveLength(60);
  });

  it('a runner that lost its lease writes nothing more', async () => {
    there.worker.script = (body) => [1_500, ...echo(body)];
    const batch = await createBatch([request('only', 'slow')]);
    startRunner();
    await begun(batch.id);
    // As if another runner had claimed it.
    await t.database.db
      .update(batches)
      .set({ epoch: sql`epoch + 1`, leaseUntil: sql`clock_timestamp() + interval '3 s'` })
      .where(eq(batches.id, batch.id));
    there.worker.script = echo;
    const done = await ended(batch.id);
    expect(done.request_counts).toEqual({ total: 1, completed: 1, failed: 0 });
    const [row] = await t.database.db.select().from(batches).where(eq(batches.id, batch.id));
    expect(row?.epoch).toBe(3);
  });
});

describe('a batch over text completions', () => {
  it('runs them as it runs chats', async () => {
    there.worker.script = () => answerOf(['blue', '.']);
    const line = {
      custom_id: 't',
      method: 'POST',
      url: '/v1/completions',
      body: { model: BASE_MODEL, prompt: 'The sky is' },
    };
    const batch = await there.client.batches.create({
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

describe('a worker that stops', () => {
  it('costs a batch nothing, and a line that stops two in a row is not asked a third time', async () => {
    let calls = 0;
    there.worker.script = (body) => {
      if (body.messages[0]!.content !== 'stops') return ++calls === 1 ? ['break'] : echo(body);
      stops += 1;
      return ['break'];
    };
    let stops = 0;
    const batch = await createBatch([request('fine', 'hello'), request('bad', 'stops')]);
    startRunner();
    const done = await ended(batch.id);
    expect(done.request_counts).toEqual({ total: 2, completed: 1, failed: 1 });
    const [line] = await linesOf(done.error_file_id);
    expect(line).toMatchObject({ custom_id: 'bad', response: { status_code: 500 }, error: null });
    expect(line.response.body.error.code).toBe('request_stops_workers');
    expect([calls, stops]).toEqual([2, 2]);
  });
});

describe('a busy worker', () => {
  it('that refuses is asked again later, and no line fails for it', async () => {
    let calls = 0;
    there.worker.script = (body) => {
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
    there.worker.script = echo;
    there.worker.health.waiting = 1;
    const before = there.worker.requests.length;
    const batch = await createBatch([request('a', 'x')]);
    startRunner();
    await begun(batch.id);
    await new Promise((resolve) => setTimeout(resolve, 600));
    expect(there.worker.requests.length).toBe(before);
    there.worker.health.waiting = 0;
    expect((await ended(batch.id)).status).toBe('completed');
  });

  it('that fails is asked three times, then its failure is the answer', async () => {
    let calls = 0;
    there.worker.script = () => {
      calls += 1;
      return { status: 500, type: 'server_error', code: 'model_not_finite', param: null, message: 'NaN.' };
    };
    const batch = await createBatch([request('a', 'x')]);
    startRunner();
    const done = await ended(batch.id);
    expect([done.status, done.request_counts]).toEqual(['completed', { total: 1, completed: 0, failed: 1 }]);
    expect(calls).toBe(3);
    const [line] = await linesOf(done.error_file_id);
    expect([line.response.status_code, line.response.body.error.code]).toEqual([500, 'model_not_finite']);
  });
});
