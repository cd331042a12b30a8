/** Creations that are asked for twice: by key, by the SDK's own retries, at once, and after a crash. */
import { spawn } from 'node:child_process';
import { once as onceEvent } from 'node:events';
import { fileURLToPath } from 'node:url';
import { eq, sql } from 'drizzle-orm';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApp } from '../../src/app.ts';
import { type Database, openDatabase } from '../../src/db/client.ts';
import { jobs } from '../../src/db/schema-jobs.ts';
import { idempotencyKeys } from '../../src/db/schema-tenancy.ts';
import { once } from '../../src/domain/idempotency/repeatable.ts';
import { deleteExpiredKeys } from '../../src/domain/idempotency/repository.ts';
import { ROUTE_RULES } from '../../src/http/scopes.ts';
import { BASE_MODEL, type CallOptions, TEN_ROWS, useApp } from '../helpers/app.ts';
import { PROGRAM_FLAGS } from '../helpers/programs.ts';
import { adminKeyOf } from './admin-rows.ts';
import { addTunedModel } from './rows.ts';

const t = useApp();
let training_file: string;
let other: Database;
const CHILD = fileURLToPath(new URL('create-and-die.ts', import.meta.url));

beforeAll(async () => {
  training_file = await t.upload(TEN_ROWS);
  other = openDatabase(t.database.url, { connections: 5 });
});
afterAll(() => other?.close());

const create = (key: string | null, fields: object = {}, options: CallOptions = {}) =>
  t.call('POST', '/v1/fine_tuning/jobs', {
    json: { model: BASE_MODEL, training_file, ...fields },
    headers: key === null ? {} : { 'idempotency-key': key },
    ...options,
  });
const countJobs = () => t.database.db.$count(jobs);

describe('Idempotency-Key', () => {
  it('answers a repeated creation with the first answer', async () => {
    const before = await countJobs();
    const first = await create('once', { suffix: 'a' });
    const again = await create('once', { suffix: 'a' });
    expect(first.headers.get('idempotent-replayed')).toBeNull();
    expect(again.headers.get('idempotent-replayed')).toBe('true');
    expect(again.headers.get('content-type')).toContain('application/json');
    expect([again.status, again.text]).toEqual([first.status, first.text]);
    expect(await countJobs()).toBe(before + 1);
    expect((await create(null, { suffix: 'a' })).json.id).not.toBe(first.json.id);
  });

  it('refuses another request under the same key, and says not to repeat it', async () => {
    await create('taken');
    const answer = await create('taken', { seed: 1 });
    expect([answer.status, answer.json.error.code]).toEqual([409, 'idempotency_key_reused']);
    expect(answer.headers.get('x-should-retry')).toBe('false');
  });

  it('belongs to its project', async () => {
    const mine = await create('shared');
    const file = await t.upload(TEN_ROWS, { key: t.bob.key });
    const theirs = await create('shared', { training_file: file }, { key: t.bob.key });
    expect(theirs.status).toBe(200);
    expect(theirs.json.id).not.toBe(mine.json.id);
  });

  it('makes one job of many requests at once, whatever process they reach', async () => {
    const before = await countJobs();
    const second = createApp({ ...t, database: other });
    const headers = { authorization: `Bearer ${t.alice.key}`, 'content-type': 'application/json' };
    const ask = (app: typeof second) =>
      app.request('/v1/fine_tuning/jobs', {
        method: 'POST',
        headers: { ...headers, 'idempotency-key': 'race' },
        body: JSON.stringify({ model: BASE_MODEL, training_file }),
      });
    const answers = await Promise.all([t.app, second, t.app, second, t.app].map(ask));
    const bodies = await Promise.all(answers.map((answer) => answer.text()));
    expect(answers.map((answer) => answer.status)).toEqual([200, 200, 200, 200, 200]);
    expect(new Set(bodies).size).toBe(1);
    expect(await countJobs()).toBe(before + 1);
  });

  it('keeps no refusal: a corrected request may use the key', async () => {
    expect((await create('corrected', { training_file: 'file-none' })).status).toBe(400);
    expect((await create('corrected')).status).toBe(200);
  });

  it('must be visible ASCII of at most 255 characters', async () => {
    for (const key of ['', 'a b', 'x'.repeat(256)]) {
      const { status, json } = await create(key);
      expect([key.length, status, json.error.param]).toEqual([key.length, 400, 'Idempotency-Key']);
    }
    expect((await create('x'.repeat(255))).status).toBe(200);
  });

  it('is free again after a day, and swept', async () => {
    const first = await create('old');
    const { rows } = await t.database.db.execute<{ hours: number }>(
      sql`select extract(epoch from expires_at - created_at) / 3600 as hours from idempotency_keys where key = 'old'`,
    );
    expect(Number(rows[0]!.hours)).toBeCloseTo(24, 2);
    const past = { expiresAt: sql`clock_timestamp()` };
    await t.database.db.update(idempotencyKeys).set(past).where(eq(idempotencyKeys.key, 'old'));
    const second = await create('old');
    expect(second.json.id).not.toBe(first.json.id);
    await t.database.db.update(idempotencyKeys).set(past);
    expect(await deleteExpiredKeys(t.database.db)).toBeGreaterThan(5);
    expect(await t.database.db.$count(idempotencyKeys)).toBe(0);
  });

  it('holds for every creation that the table marks', async () => {
    const request = { model: BASE_MODEL, messages: [{ role: 'user', content: 'hi' }] };
    const line = JSON.stringify({
      ...{ custom_id: 'a', method: 'POST', url: '/v1/chat/completions', body: request },
    });
    const input_file_id = await t.upload(line, { purpose: 'batch' });
    const { id: model } = await addTunedModel(t, t.alice, { tail: 'exported' });
    const bodies: Record<string, object> = {
      '/v1/fine_tuning/jobs': { model: BASE_MODEL, training_file },
      '/v1/uploads': { filename: 'a.txt', purpose: 'user_data', bytes: 3, mime_type: 'text/plain' },
      '/v1/batches': { input_file_id, endpoint: '/v1/chat/completions', completion_window: '24h' },
      '/v1/fine_tuning/exports': { model },
      '/v1/organization/projects': { name: 'twice' },
    };
    const admin = (await adminKeyOf(t, t.alice)).key;
    const marked = Object.keys(ROUTE_RULES).filter((route) => ROUTE_RULES[route]!.idempotent);
    expect(marked.length).toBeGreaterThan(3);
    for (const route of marked) {
      const path = route.replace('POST ', '');
      const make = () =>
        t.call('POST', path, {
          json: bodies[path],
          headers: { 'idempotency-key': `every ${path}`.replaceAll(' ', '') },
          ...(path.startsWith('/v1/organization') && { key: admin }),
        });
      const [first, second] = [await make(), await make()];
      expect([path, first!.status, second!.text]).toEqual([path, 200, first!.text]);
      expect(second!.headers.get('idempotent-replayed')).toBe('true');
      // As if the first process had died before its answer: what it made is found again.
      await t.database.db.update(idempotencyKeys).set({
        ...{ status: null, body: null, heldUntil: sql`clock_timestamp()` },
      });
      const third = await make();
      expect(third.headers.get('idempotent-replayed')).toBeNull();
      expect([path, third.status, third.json.id]).toEqual([path, 200, first!.json.id]);
    }
  });
});

describe('a process killed between the job and the answer', () => {
  it('leaves a key that the next request takes over, with the job that was made', async () => {
    const before = await countJobs();
    const body = JSON.stringify({ model: BASE_MODEL, training_file });
    const child = spawn(
      process.execPath,
      [...PROGRAM_FLAGS, CHILD, t.database.url, t.storageDir, t.alice.key, 'crash', body],
      { stdio: 'inherit' },
    );
    expect(await onceEvent(child, 'exit')).toEqual([null, 'SIGKILL']);
    expect(await countJobs()).toBe(before + 1);

    // The hold of the dead process ends by itself after 10 s; here its time is shortened.
    await t.database.db
      .update(idempotencyKeys)
      .set({ heldUntil: sql`clock_timestamp() + interval '300 milliseconds'` })
      .where(eq(idempotencyKeys.key, 'crash'));
    const answers = await Promise.all([create('crash'), create('crash')]);
    expect(answers.map((answer) => answer.status)).toEqual([200, 200]);
    expect(answers[0]!.json.id).toBe(answers[1]!.json.id);
    expect(await countJobs()).toBe(before + 1);
    expect((await t.call('GET', `/v1/fine_tuning/jobs/${answers[0]!.json.id}`)).status).toBe(200);
  });
});

describe("the SDK's own retries", () => {
  /** A client whose first `lost` answers to creations never arrive. */
  async function clientLosing(lost: number) {
    const retries: string[] = [];
    const client = new OpenAI({
      baseURL: await t.serve(),
      apiKey: t.alice.key,
      fetch: async (url, init) => {
        const answer = await fetch(url, init);
        retries.push(new Headers(init?.headers).get('x-stainless-retry-count') ?? '');
        if (retries.length > lost) return answer;
        await answer.text();
        throw new TypeError('fetch failed');
      },
    });
    return { client, retries };
  }

  it('get the job whose answer was lost', async () => {
    const before = await countJobs();
    const { client, retries } = await clientLosing(2);
    const job = await client.fineTuning.jobs.create({ model: BASE_MODEL, training_file, suffix: 'lost' });
    expect(retries).toEqual(['0', '1', '2']);
    expect(await countJobs()).toBe(before + 1);
    expect((await client.fineTuning.jobs.retrieve(job.id)).id).toBe(job.id);
  });

  it('are told apart from a second job that is meant', async () => {
    const before = await countJobs();
    const { client } = await clientLosing(0);
    const body = { model: BASE_MODEL, training_file, suffix: 'meant' };
    const [first, second] = [
      await client.fineTuning.jobs.create(body),
      await client.fineTuning.jobs.create(body),
    ];
    expect(second.id).not.toBe(first.id);
    expect(await countJobs()).toBe(before + 2);
  });

  it('of one request do not get the job of an equal one that came meanwhile', async () => {
    const request = { projectId: t.alice.projectId, key: 'retry x', fingerprint: 'f', keepSeconds: 60 };
    const { signal } = new AbortController();
    const made: string[] = [];
    let answer = () => {};
    const slow = new Promise<void>((resolve) => (answer = resolve));
    const work = (wait: Promise<void> | null) => async (seed: string) => {
      made.push(seed);
      await wait;
      return { status: 200, body: seed };
    };
    const first = once(t, { ...request, anew: true }, work(slow), signal);
    await expect.poll(() => made.length).toBe(1);
    expect(await once(t, { ...request, anew: true }, work(null), signal)).toBeNull();
    answer();
    expect(await first).toBeNull();
    expect(new Set(made).size).toBe(2);
    const repeated = await once(t, { ...request, anew: false }, work(null), signal);
    expect(repeated).toEqual({ status: 200, body: made[0] });
  });

  it('that find nothing make the job', async () => {
    const headers = { 'x-stainless-retry-count': '1' };
    const first = await create(null, { suffix: 'late' }, { headers });
    const second = await create(null, { suffix: 'late' }, { headers: { 'x-stainless-retry-count': '2' } });
    expect(first.status).toBe(200);
    expect(second.json.id).toBe(first.json.id);
  });
});
