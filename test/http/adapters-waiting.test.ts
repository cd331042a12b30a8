/** Imports that wait for a worker: how many of a project, and what becomes of one whose sender leaves. No worker takes them. */
import { afterEach, beforeAll, expect, it, vi } from 'vitest';
import { workers } from '../../src/db/schema.ts';
import { modelOperations } from '../../src/db/schema-uploads.ts';
import { newId } from '../../src/ids.ts';
import { BASE_MODEL, type Tenant, useApp } from '../helpers/app.ts';

const t = useApp({ maxImports: 2 });
let base: string;

beforeAll(async () => {
  base = await t.serve();
  await t.database.db.insert(workers).values({
    ...{ id: newId('worker_'), kind: 'inference', url: 'http://127.0.0.1:9', baseModel: BASE_MODEL },
    ...{ device: 'cpu', host: 'h', pid: 1, state: 'ready', heartbeatAt: new Date(Date.now() + 3_600_000) },
  });
});
afterEach(() => t.database.db.delete(modelOperations));

/** Sends an adapter over HTTP; it is well formed, so it waits. */
function send(tenant: Tenant, signal?: AbortSignal): Promise<Response> {
  const body = new FormData();
  body.append('base_model', BASE_MODEL);
  body.append('file', new File(['{"peft_type":"LORA"}'], 'adapter_config.json'));
  body.append('file', new File([Buffer.from('0200000000000000', 'hex'), '{}'], 'adapter_model.safetensors'));
  const headers = { authorization: `Bearer ${tenant.key}` };
  return fetch(`${base}/fine_tuning/adapters`, { method: 'POST', body, headers, signal: signal ?? null });
}
const statuses = async () =>
  (await t.database.db.select({ status: modelOperations.status }).from(modelOperations)).map(
    ({ status }) => status,
  );
const waiting = (statusOfAll: string[]) =>
  vi.waitFor(async () => expect(await statuses()).toEqual(statusOfAll), { timeout: 5_000, interval: 20 });

it('an import whose sender leaves is ended, and is no import of the project any more', async () => {
  const leaving = new AbortController();
  const sent = send(t.alice, leaving.signal);
  await waiting(['queued']);
  leaving.abort();
  await expect(sent).rejects.toThrow(/abort/i);
  await waiting(['expired']);
  expect(t.logged.filter((line) => JSON.parse(line).level >= 50)).toEqual([]);
});

it('a project has so many under way at most, and another project its own', async () => {
  const leaving = new AbortController();
  const sent = Array.from({ length: 4 }, () => send(t.alice, leaving.signal));
  const refused = await Promise.any(sent);
  expect([refused.status, JSON.parse(await refused.text()).error]).toEqual([
    429,
    expect.objectContaining({ type: 'insufficient_quota', code: 'import_limit_reached' }),
  ]);
  await waiting(['queued', 'queued']);
  const others = send(t.bob, leaving.signal);
  await waiting(['queued', 'queued', 'queued']);
  // Those refused leave nothing; what waits is two files each, as is the one that was ended before.
  const mine = async () => (await t.stored()).filter((file) => file.includes(`${t.alice.projectId}/imports`));
  await vi.waitFor(async () => expect((await mine()).length).toBe(4 + 2));
  leaving.abort();
  const ends = await Promise.allSettled([...sent, others]);
  expect(ends.filter(({ status }) => status === 'rejected').length).toBe(3);
  await waiting(['expired', 'expired', 'expired']);
});
