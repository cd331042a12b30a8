/** Imported adapters count with a project's bytes, from the moment they are received until the model is deleted. */
import { beforeAll, expect, it, vi } from 'vitest';
import { projects, workers } from '../../src/db/schema.ts';
import { tunedModels } from '../../src/db/schema-jobs.ts';
import { modelOperations } from '../../src/db/schema-uploads.ts';
import { newId } from '../../src/ids.ts';
import { BASE_MODEL, useApp } from '../helpers/app.ts';

const t = useApp();
const CONFIG = '{"peft_type":"LORA"}';
const WEIGHTS = Buffer.concat([Buffer.from('0200000000000000', 'hex'), Buffer.from('{}')]);
const BYTES = CONFIG.length + WEIGHTS.length;

beforeAll(async () => {
  await t.database.db.insert(workers).values({
    ...{ id: newId('worker_'), kind: 'inference', url: 'http://127.0.0.1:9', baseModel: BASE_MODEL },
    ...{ device: 'cpu', host: 'h', pid: 1, state: 'ready', heartbeatAt: new Date(Date.now() + 3_600_000) },
  });
});

it('so that neither files nor adapters pass the limit together', async () => {
  const setMax = (maxStorageBytes: number) => t.database.db.update(projects).set({ maxStorageBytes });
  const leaving = new AbortController();
  const url = `${await t.serve()}/fine_tuning/adapters`;
  const bring = () => {
    const body = new FormData();
    body.append('base_model', BASE_MODEL);
    body.append('file', new File([CONFIG], 'adapter_config.json'));
    body.append('file', new File([WEIGHTS], 'adapter_model.safetensors'));
    const headers = { authorization: `Bearer ${t.alice.key}` };
    return fetch(url, { method: 'POST', body, headers, signal: leaving.signal });
  };
  const upload = (text: string) => {
    const form = new FormData();
    form.set('purpose', 'evals');
    form.set('file', new File([text], 'a.jsonl'));
    return t.call('POST', '/v1/files', { body: form });
  };
  await setMax(BYTES - 1);
  const refused = await bring();
  const { error } = (await refused.json()) as { error: object };
  expect([refused.status, error]).toEqual([403, expect.objectContaining({ code: 'storage_quota_exceeded' })]);
  expect(await t.stored()).toEqual([]);

  await setMax(BYTES + 3);
  const waiting = bring().catch((failure: unknown) => failure); // no worker takes it
  await vi.waitFor(async () => expect(await t.database.db.$count(modelOperations)).toBe(1), 5_000);
  expect((await upload('1234')).json.error.code).toBe('storage_quota_exceeded');
  leaving.abort();
  await waiting;
  await vi.waitFor(
    async () => expect((await t.database.db.select().from(modelOperations))[0]?.status).toBe('expired'),
    5_000,
  );
  const id = `ft:${BASE_MODEL}:acme::imported`;
  await t.database.db.insert(tunedModels).values({
    ...{ id, projectId: t.alice.projectId, jobId: null, baseModel: BASE_MODEL, kind: 'adapter', step: 0 },
    ...{ isCheckpoint: false, storagePrefix: 'projects/p/adapters/i/e1', digest: 'd', ownedBy: 'acme' },
    files: [{ name: 'adapter_model.safetensors', bytes: BYTES, sha256: '' }],
  });
  expect((await upload('1234')).json.error.code).toBe('storage_quota_exceeded');
  expect((await upload('123')).status).toBe(200);
  expect((await t.call('DELETE', `/v1/models/${id}`)).status).toBe(200);
  expect((await upload('1234')).status).toBe(200);
});
