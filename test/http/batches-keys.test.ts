/** What a batch depends on while it waits and runs: its key, what that is allowed to, and its input file. */
import { eq } from 'drizzle-orm';
import { afterAll, afterEach, beforeAll, expect, it, vi } from 'vitest';
import { apiKeys, projects } from '../../src/db/schema.ts';
import { batches } from '../../src/db/schema-batches.ts';
import { type BatchRunner, startBatchRunner } from '../../src/domain/batches/runner.ts';
import { createKey, revokeKey } from '../../src/domain/keys/create.ts';
import { innerRequests } from '../../src/http/inner-requests.ts';
import { BASE_MODEL, useApp } from '../helpers/app.ts';
import { answerOf, ScriptedWorker } from './scripted-worker.ts';

const t = useApp({ pollMilliseconds: 20, leaseSeconds: 6, heartbeatSeconds: 1 });
const ENDPOINT = '/v1/chat/completions';
let worker: ScriptedWorker;
let runner: BatchRunner | undefined;
beforeAll(async () => {
  worker = await ScriptedWorker.start(t.database);
});
afterEach(async () => {
  await runner?.stop();
});
afterAll(() => worker?.stop());

const start = () => {
  runner = startBatchRunner({ ...t, ask: innerRequests(t, { limited: false }) });
};
const newKey = (...scopes: string[]) => createKey(t.database, t.alice.projectId, 'batches', null, { scopes });
const create = async (key: string) => {
  const body = { model: BASE_MODEL, messages: [{ role: 'user', content: 'x' }] };
  const line = (i: number) => JSON.stringify({ custom_id: `l${i}`, method: 'POST', url: ENDPOINT, body });
  const text = Array.from({ length: 6 }, (_, i) => line(i)).join('\n');
  const input_file_id = await t.upload(text, { purpose: 'batch', filename: 'in.jsonl' });
  return t.call('POST', '/v1/batches', {
    key,
    json: { input_file_id, endpoint: ENDPOINT, completion_window: '24h' },
  });
};
const rowOf = async (id: string) =>
  (await t.database.db.select().from(batches).where(eq(batches.id, id)))[0]!;
const cancelled = (id: string) =>
  vi.waitFor(async () => expect((await rowOf(id)).status).toBe('cancelled'), {
    timeout: 10_000,
    interval: 50,
  });

it('a key that may not ask models creates none', async () => {
  const refused = await create((await newKey('api.batch.write', 'api.files.write')).key);
  expect([refused.status, refused.json.error.code]).toEqual([403, 'insufficient_scope']);
  expect(refused.json.error.message).toContain('Missing scopes: api.model.request.');
  expect(await t.database.db.$count(batches)).toBe(0);
  expect((await create((await newKey('api.batch.write', 'api.model.request')).key)).status).toBe(200);
  await t.database.db.delete(batches);
});

it.each<[string, (keyId: string) => Promise<unknown>]>([
  ['is revoked', (id) => revokeKey(t.database, t.alice.projectId, id)],
  ['has expired', (id) => setKey(id, { expiresAt: new Date(Date.now() - 1000) })],
  ['may no longer ask models', (id) => setKey(id, { scopes: ['api.batch.write'] })],
  ['has an archived project', () => archive(new Date())],
])('a batch whose key %s before it runs asks nothing', async (_, lose) => {
  worker.script = answerOf(['hi']);
  const key = await newKey();
  const { json: batch } = await create(key.key);
  const before = worker.requests.length;
  await lose((await rowOf(batch.id)).keyId);
  start();
  await cancelled(batch.id);
  await archive(null);
  expect(worker.requests).toHaveLength(before);
});

it('a batch that runs ends with its key, and keeps the answers it has', async () => {
  let calls = 0;
  const busy = { status: 429 as const, type: 'rate_limit_error', code: 'rate_limit_exceeded', param: null };
  worker.script = () =>
    calls++ === 0 ? answerOf(['hi']) : { ...busy, message: 'Busy.', retry_after_seconds: 1 };
  const key = await newKey();
  const { json: batch } = await create(key.key);
  start();
  await vi.waitFor(async () => expect((await rowOf(batch.id)).completed).toBeGreaterThan(0), 10_000);
  await revokeKey(t.database, t.alice.projectId, (await rowOf(batch.id)).keyId);
  await cancelled(batch.id);
  const { completed, failed, outputFileId, errorFileId } = await rowOf(batch.id);
  expect([completed, failed]).toEqual([1, 5]);
  expect([outputFileId, errorFileId]).toEqual([expect.any(String), expect.any(String)]);
});

const setKey = (id: string, fields: object) =>
  t.database.db.update(apiKeys).set(fields).where(eq(apiKeys.id, id));
const archive = (archivedAt: Date | null) =>
  t.database.db.update(projects).set({ archivedAt }).where(eq(projects.id, t.alice.projectId));

it('a batch whose input is gone from storage fails and says so, instead of being tried for ever', async () => {
  const { json: batch } = await create((await newKey()).key);
  await t.storage.delete(`projects/${t.alice.projectId}/files/${batch.input_file_id}`);
  start();
  await vi.waitFor(async () => expect((await rowOf(batch.id)).status).toBe('failed'), { timeout: 10_000 });
  const { json } = await t.call('GET', `/v1/batches/${batch.id}`);
  expect(json.errors.data).toEqual([
    expect.objectContaining({ code: 'invalid_input_file', param: 'input_file_id', line: null }),
  ]);
});
