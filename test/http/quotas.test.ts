/** Requests and tokens a minute, and quotas of jobs, files and bytes: in OpenAI's words, over all processes. */
import { sql } from 'drizzle-orm';
import OpenAI, { RateLimitError } from 'openai';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createApp } from '../../src/app.ts';
import { type Database, openDatabase } from '../../src/db/client.ts';
import { projects } from '../../src/db/schema.ts';
import { chatCompletions } from '../../src/db/schema-chat.ts';
import { rateLimitBuckets } from '../../src/db/schema-tenancy.ts';
import { createAdminKey } from '../../src/domain/keys/admin.ts';
import { NO_LIMIT } from '../../src/domain/quotas/rate-limits.ts';
import { countedTokens, duration } from '../../src/http/rate-limit.ts';
import { BASE_MODEL, TEN_ROWS, useApp } from '../helpers/app.ts';
import { addJob, addTunedModel } from './rows.ts';
import { answerOf, ScriptedWorker } from './scripted-worker.ts';

const t = useApp({ maxActiveJobs: 3 });
let admin: OpenAI.Admin.Organization;
let other: Database;

beforeAll(async () => {
  const { key } = await createAdminKey(t, t.alice.organization.id, 'root', null);
  admin = new OpenAI({ baseURL: await t.serve(), adminAPIKey: key }).admin.organization;
  other = openDatabase(t.database.url, { connections: 5 });
});
afterAll(() => other?.close());
beforeEach(async () => {
  await t.database.db.delete(rateLimitBuckets);
});

const limit = (max_requests_per_1_minute: number, max_tokens_per_1_minute: number) =>
  admin.projects.rateLimits.updateRateLimit(`rl-${BASE_MODEL}`, {
    project_id: t.alice.projectId,
    max_requests_per_1_minute,
    max_tokens_per_1_minute,
  });
/** No worker serves the model: what is let in answers 503. */
const chat = (fields: object = {}, key = t.alice.key) =>
  t.call('POST', '/v1/chat/completions', {
    key,
    json: { model: BASE_MODEL, messages: [{ role: 'user', content: 'hi' }], ...fields },
  });

/** A tuned model whose job is no longer active. */
const addModel = async (tail: string, checkpoint = false) => {
  const { id, jobId } = await addTunedModel(t, t.alice, { tail, checkpoint });
  await t.call('POST', `/v1/fine_tuning/jobs/${jobId}/cancel`);
  return id;
};

describe('rate limits', () => {
  it('are off unless somebody sets them, and then say nothing', async () => {
    const [only] = (await admin.projects.rateLimits.listRateLimits(t.alice.projectId)).data;
    expect(only).toEqual({
      id: `rl-${BASE_MODEL}`,
      object: 'project.rate_limit',
      model: BASE_MODEL,
      max_requests_per_1_minute: NO_LIMIT,
      max_tokens_per_1_minute: NO_LIMIT,
    });
    const answer = await chat();
    expect(answer.status).toBe(503);
    expect([...answer.headers.keys()].filter((name) => name.startsWith('x-ratelimit'))).toEqual([]);
    expect(await t.database.db.$count(rateLimitBuckets)).toBe(0);
  });

  it("count requests, show OpenAI's headers and refuse in OpenAI's words", async () => {
    expect(await limit(2, NO_LIMIT)).toMatchObject({ max_requests_per_1_minute: 2 });
    const first = await chat();
    expect(first.status).toBe(503);
    expect(first.headers.get('x-ratelimit-limit-requests')).toBe('2');
    expect(first.headers.get('x-ratelimit-remaining-requests')).toBe('1');
    expect(first.headers.get('x-ratelimit-reset-requests')).toBe('30s');
    expect(first.headers.get('x-ratelimit-limit-tokens')).toBeNull();
    await chat();
    const refused = await chat();
    expect(refused.status).toBe(429);
    expect(refused.json.error).toMatchObject({ type: 'requests', code: 'rate_limit_exceeded', param: null });
    expect(refused.json.error.message).toMatch(
      /^Rate limit reached for Qwen\/Qwen3-tiny in project proj_\w+ organization org-\w+ on requests per min \(RPM\): Limit 2, Used 2, Requested 1\. Please try again in [\d.]+s\.$/,
    );
    const wait = Number(refused.headers.get('retry-after'));
    expect(wait).toBeGreaterThan(25);
    expect(wait).toBeLessThanOrEqual(30);
    expect(Number(refused.headers.get('retry-after-ms'))).toBeLessThanOrEqual(wait * 1000);
    expect(refused.headers.get('x-ratelimit-remaining-requests')).toBe('0');
    expect((await chat({}, t.bob.key)).status).toBe(503);
  });

  it('fill again with time', async () => {
    await limit(6, NO_LIMIT);
    for (let i = 0; i < 6; i++) expect((await chat()).status).toBe(503);
    expect((await chat()).status).toBe(429);
    const emptied = { requests: 0, updatedAt: sql`clock_timestamp() - interval '25 seconds'` };
    await t.database.db.update(rateLimitBuckets).set(emptied);
    const answer = await chat(); // 2.5 came back, one is spent
    expect([answer.status, answer.headers.get('x-ratelimit-remaining-requests')]).toEqual([503, '1']);
  });

  it('count tokens as OpenAI does, and say when a request alone is too large', async () => {
    await limit(1000, 100);
    const first = await chat({ max_completion_tokens: 60 });
    expect(first.headers.get('x-ratelimit-remaining-tokens')).toBe('40');
    const refused = await chat({ max_completion_tokens: 60 });
    expect([refused.status, refused.json.error.type]).toEqual([429, 'tokens']);
    expect(refused.json.error.message).toContain('tokens per min (TPM): Limit 100, Used ');
    expect(refused.json.error.message).toContain('Requested 60.');
    expect(refused.headers.get('x-ratelimit-remaining-requests')).toBe('999'); // a refusal spends nothing
    const never = await chat({ max_completion_tokens: 101 });
    expect(never.json.error.message).toContain('Request too large');
    expect(never.headers.get('x-should-retry')).toBe('false');
    expect(countedTokens({ messages: 'x'.repeat(398), n: 2, max_tokens: 30 })).toBe(100);
    expect(countedTokens({ prompt: 'x', n: 2, max_tokens: 30 })).toBe(60);
    expect(countedTokens({ prompt: 'x', n: 2, best_of: 20, max_tokens: 30 })).toBe(600);
    expect(countedTokens({ prompt: ['x', 'y', 'z'], best_of: 4, max_tokens: 30 })).toBe(360);
    expect(countedTokens({ prompt: [[1, 2], [3]], max_tokens: 30 })).toBe(60);
    expect(countedTokens({ prompt: [1, 2, 3] })).toBe(16);
  });

  it('are shared by a base model and all that is tuned from it, and by all processes', async () => {
    await limit(3, NO_LIMIT);
    const second = createApp({ ...t, database: other });
    const ask = async (app: typeof second, model: string) => {
      const answer = await app.request('/v1/chat/completions', {
        method: 'POST',
        headers: { authorization: `Bearer ${t.alice.key}`, 'content-type': 'application/json' },
        body: JSON.stringify({ model, messages: [{ role: 'user', content: 'hi' }] }),
      });
      return answer.status;
    };
    const tuned = await addModel('limited0', true);
    const statuses = await Promise.all([
      ask(t.app, BASE_MODEL),
      ask(second, tuned),
      ask(second, BASE_MODEL),
      ask(t.app, tuned),
      ask(second, tuned),
    ]);
    expect(statuses.filter((status) => status === 429)).toHaveLength(2);
    expect(statuses.filter((status) => status === 503)).toHaveLength(3);
    expect((await chat({ model: 'no-such-model' })).status).toBe(404); // and leaves no bucket behind
    expect(await t.database.db.$count(rateLimitBuckets)).toBe(1);
  });

  it('hold however the name is written', async () => {
    await limit(2, NO_LIMIT);
    const tuned = await addModel('encoded0');
    expect((await chat({ model: encodeURIComponent(BASE_MODEL) })).status).toBe(503);
    const second = await chat({ model: BASE_MODEL.replace('t', '%74') });
    expect([second.status, second.headers.get('x-ratelimit-remaining-requests')]).toEqual([503, '0']);
    for (const model of [BASE_MODEL, encodeURIComponent(BASE_MODEL), encodeURIComponent(tuned)])
      expect((await chat({ model })).status).toBe(429);
  });

  it('reach the SDK as its own error, with the headers', async () => {
    await limit(1, NO_LIMIT);
    await chat();
    const client = new OpenAI({ baseURL: await t.serve(), apiKey: t.alice.key, maxRetries: 0 });
    const error = await client.chat.completions
      .create({ model: BASE_MODEL, messages: [{ role: 'user', content: 'hi' }] })
      .catch((reason) => reason);
    expect(error).toBeInstanceOf(RateLimitError);
    expect([error.code, error.type]).toEqual(['rate_limit_exceeded', 'requests']);
    await limit(NO_LIMIT, NO_LIMIT);
    expect((await chat()).status).toBe(503);
  });

  it('are told with whole answers and streams alike', async () => {
    await limit(10, NO_LIMIT);
    const worker = await ScriptedWorker.start(t.database);
    worker.script = answerOf(['Hel', 'lo']);
    for (const [stream, left] of [
      [false, '9'],
      [true, '8'],
    ] as const) {
      const answer = await chat({ stream });
      expect([answer.status, answer.headers.get('x-ratelimit-remaining-requests')]).toEqual([200, left]);
      expect(answer.text).toContain('Hel');
    }
    await worker.stop();
  });

  it('refuse unknown models and numbers', async () => {
    const { key } = await createAdminKey(t, t.alice.organization.id, 'root', null);
    const url = (id: string) => `/v1/organization/projects/${t.alice.projectId}/rate_limits/${id}`;
    for (const [id, json, expected] of [
      ['rl-nothing', { max_requests_per_1_minute: 1 }, [404, 'rate_limit_id']],
      [`rl-${BASE_MODEL}`, {}, [400, 'max_requests_per_1_minute']],
      [`rl-${BASE_MODEL}`, { max_requests_per_1_minute: 0 }, [400, 'max_requests_per_1_minute']],
      [`rl-${BASE_MODEL}`, { max_images_per_1_minute: 1 }, [400, 'max_images_per_1_minute']],
    ] as const) {
      const answer = await t.call('POST', url(id), { key, json });
      expect([answer.status, answer.json.error.param]).toEqual(expected);
    }
  });

  it('write durations as OpenAI does', () => {
    expect([0, 0.0115, 7.66, 30, 360, 3661].map(duration)).toEqual([
      '0ms',
      '12ms',
      '7.66s',
      '30s',
      '6m0s',
      '1h1m1s',
    ]);
  });
});

describe('quotas', () => {
  const setQuotas = async (quotas: object) =>
    t.database.db
      .update(projects)
      .set({ maxActiveJobs: null, maxFiles: null, maxStorageBytes: null, ...quotas });

  it('bound the active jobs, however many ask at once; a cancelled job frees its place', async () => {
    await setQuotas({});
    const training_file = await t.upload(TEN_ROWS);
    const create = () =>
      t.call('POST', '/v1/fine_tuning/jobs', { json: { model: BASE_MODEL, training_file } });
    const answers = await Promise.all(Array.from({ length: 6 }, create));
    const made = answers.filter((answer) => answer.status === 200);
    expect(made).toHaveLength(3);
    const refused = answers.find((answer) => answer.status !== 200)!;
    expect([refused.status, refused.json.error.code]).toEqual([429, 'job_limit_reached']);
    expect(refused.headers.get('x-should-retry')).toBe('false');
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    await t.call('POST', `/v1/fine_tuning/jobs/${made[0]!.json.id}/cancel`);
    expect((await create()).status).toBe(200);
    await setQuotas({ maxActiveJobs: 0 });
    expect((await create()).status).toBe(200);
    expect(await addJob(t, t.bob)).toMatch(/^ftjob-/);
  });

  it('bound files and bytes, and leave nothing of what was refused', async () => {
    const used = (await t.call('GET', '/v1/files')).json.data as { bytes: number }[];
    const bytes = used.reduce((sum, file) => sum + file.bytes, 0);
    const upload = (text: string) => {
      const form = new FormData();
      form.set('purpose', 'evals');
      form.set('file', new File([text], 'a.jsonl'));
      return t.call('POST', '/v1/files', { body: form });
    };
    await setQuotas({ maxStorageBytes: bytes + 10 });
    const objects = (await t.stored()).length;
    const tooLarge = await upload('12345678901');
    expect([tooLarge.status, tooLarge.json.error.code]).toEqual([403, 'storage_quota_exceeded']);
    expect(await t.stored()).toHaveLength(objects);
    expect((await upload('1234567890')).status).toBe(200);
    expect((await upload('1')).json.error.code).toBe('storage_quota_exceeded');
    await setQuotas({ maxFiles: used.length + 1 });
    expect((await upload('1')).json.error.code).toBe('file_limit_reached');
    await setQuotas({ maxFiles: used.length + 3 });
    const many = await Promise.all(Array.from({ length: 5 }, () => upload('1')));
    expect(many.filter((answer) => answer.status === 200)).toHaveLength(2);
  });

  it('count stored completions: what no longer fits is refused before it is generated', async () => {
    const used = (await t.call('GET', '/v1/files')).json.data as { bytes: number }[];
    const files = used.reduce((sum, file) => sum + file.bytes, 0);
    const worker = await ScriptedWorker.start(t.database);
    worker.script = answerOf(['four']);
    const ask = (content: string, store = true) => {
      const json = { model: BASE_MODEL, messages: [{ role: 'user', content }], store };
      return t.call('POST', '/v1/chat/completions', { json });
    };
    await setQuotas({ maxStorageBytes: files + 5_000 });
    const first = await ask('x'.repeat(4_000));
    expect(first.status).toBe(200);
    const [row] = await t.database.db.select().from(chatCompletions);
    expect(row!.bytes).toBeGreaterThan(4_000);
    expect(row!.bytes).toBeLessThan(5_000);
    const asked = worker.requests.length;
    const refused = await ask('y'.repeat(2_000));
    expect([refused.status, refused.json.error.code]).toEqual([403, 'storage_quota_exceeded']);
    expect(worker.requests).toHaveLength(asked);
    expect((await ask('y'.repeat(2_000), false)).status).toBe(200); // nothing is kept of it
    const form = new FormData();
    form.set('purpose', 'evals');
    form.set('file', new File(['z'.repeat(2_000)], 'a.jsonl'));
    const upload = await t.call('POST', '/v1/files', { body: form });
    expect(upload.json.error.code).toBe('storage_quota_exceeded');
    await t.call('DELETE', `/v1/chat/completions/${first.json.id}`);
    expect((await ask('y'.repeat(2_000))).status).toBe(200);
    await worker.stop();
  });

  it('are set through the admin API', async () => {
    const { key } = await createAdminKey(t, t.alice.organization.id, 'root', null);
    const url = `/v1/organization/projects/${t.alice.projectId}`;
    const set = await t.call('POST', url, { key, json: { quotas: { max_files: 0, max_active_jobs: null } } });
    expect(set.json.quotas).toMatchObject({ max_files: 0, max_active_jobs: null });
  });
});
