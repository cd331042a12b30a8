/** Checkpoints shared with other projects of the organization, through the SDK. */
import OpenAI from 'openai';
import { beforeAll, describe, expect, it } from 'vitest';
import { projects } from '../../src/db/schema.ts';
import { createAdminKey } from '../../src/domain/keys/admin.ts';
import { createKey } from '../../src/domain/keys/create.ts';
import { newId } from '../../src/ids.ts';
import { BASE_MODEL, type Tenant, useApp } from '../helpers/app.ts';
import { addTunedModel } from './rows.ts';
import { answerOf, ScriptedWorker } from './scripted-worker.ts';

const t = useApp();
/** Another project of Alice's organization. */
let carol: Tenant;
let client: OpenAI;
let model: string;
let base: string;

beforeAll(async () => {
  const id = newId('proj_');
  const { organization } = t.alice;
  await t.database.db.insert(projects).values({ id, name: 'carol', organizationId: organization.id });
  carol = { projectId: id, organization, key: (await createKey(t.database, id, 'carol')).key };
  base = await t.serve();
  client = new OpenAI({ apiKey: t.alice.key, adminAPIKey: t.alice.key, baseURL: base, maxRetries: 0 });
  model = (await addTunedModel(t, t.alice, { tail: 'shared00', checkpoint: true })).id;
});

const share = async (ids: string[]) => {
  const all = [];
  for await (const each of client.fineTuning.checkpoints.permissions.create(model, { project_ids: ids }))
    all.push(each);
  return all;
};
const seenBy = async (tenant: Tenant) =>
  (await t.call('GET', `/v1/models/${encodeURIComponent(model)}`, { key: tenant.key })).status;

describe('checkpoint permissions', () => {
  it('let the other project chat with the model, and their deletion ends it', async () => {
    const worker = await ScriptedWorker.start(t.database);
    worker.script = answerOf(['ok']);
    const chat = () =>
      t.call('POST', '/v1/chat/completions', {
        key: carol.key,
        json: { model, messages: [{ role: 'user', content: 'hi' }] },
      });
    expect((await chat()).json.error).toMatchObject({ code: 'model_not_found' });
    expect(await seenBy(carol)).toBe(404);

    const [permission] = await share([carol.projectId]);
    expect(permission).toEqual({
      object: 'checkpoint.permission',
      id: expect.stringMatching(/^cp_/),
      created_at: expect.any(Number),
      project_id: carol.projectId,
    });
    expect((await chat()).json.choices[0].message.content).toBe('ok');
    expect(worker.requests.at(-1)).toMatchObject({
      adapter: { model_id: model },
      cache_owner: carol.projectId,
    });
    expect([await seenBy(carol), await seenBy(t.bob)]).toEqual([200, 404]);
    const own = (await addTunedModel(t, carol, { tail: 'carols00' })).id;
    const listed = async ({ key }: Tenant) =>
      (await t.call('GET', '/v1/models', { key })).json.data.map(({ id }: { id: string }) => id);
    expect(await listed(carol)).toEqual([BASE_MODEL, own, model]);
    expect(await listed(t.bob)).toEqual([BASE_MODEL]);
    expect(await listed(t.alice)).toEqual([BASE_MODEL, model]);
    // Using is all it allows.
    expect((await t.call('DELETE', `/v1/models/${model}`, { key: carol.key })).status).toBe(404);
    const taken = [
      await t.call('GET', `/v1/fine_tuning/adapters/${model}`, { key: carol.key }),
      await t.call('GET', `/v1/fine_tuning/adapters/${model}?format=safetensors`, { key: carol.key }),
      await t.call('POST', '/v1/fine_tuning/exports', { key: carol.key, json: { model } }),
    ];
    for (const { status, json } of taken)
      expect([status, json.error.code]).toEqual([403, 'permission_denied']);
    expect((await t.call('GET', '/v1/fine_tuning/exports', { key: carol.key })).json.data).toEqual([]);

    expect((await share([carol.projectId]))[0]!.id).toBe(permission!.id); // granted once
    await client.fineTuning.checkpoints.permissions.delete(permission!.id, {
      fine_tuned_model_checkpoint: model,
    });
    expect((await chat()).json.error).toMatchObject({ code: 'model_not_found' });
    expect(await listed(carol)).toEqual([BASE_MODEL, own]);
    await worker.stop();
  });

  it('are an admin key’s business in every project of its organization, and in no other', async () => {
    const keyOf = async (tenant: Tenant) =>
      (await createAdminKey(t, tenant.organization.id, 'admin', null)).key;
    const as = (adminAPIKey: string) =>
      new OpenAI({ apiKey: 'unused', adminAPIKey, baseURL: base, maxRetries: 0 }).fineTuning.checkpoints
        .permissions;
    const admin = as(await keyOf(t.alice));
    const { data } = await admin.create(model, { project_ids: [carol.projectId] });
    expect(await seenBy(carol)).toBe(200);
    expect((await admin.list(model)).data.map((each) => each.id)).toEqual([data[0]!.id]);
    const foreign = as(await keyOf(t.bob));
    await expect(foreign.list(model)).rejects.toMatchObject({ status: 404 });
    await admin.delete(data[0]!.id, { fine_tuned_model_checkpoint: model });
    expect(await seenBy(carol)).toBe(404);
  });

  it('are listed in pages, in either order, and by project', async () => {
    const ids = [carol.projectId, t.alice.projectId];
    const made = [...(await share([ids[0]!])), ...(await share([ids[1]!]))];
    const list = async (query: object) => {
      const found = [];
      for await (const each of client.fineTuning.checkpoints.permissions.list(model, query))
        found.push(each.project_id);
      return found;
    };
    expect(await list({ limit: 1 })).toEqual([...ids].reverse());
    expect(await list({ limit: 1, order: 'ascending' })).toEqual(ids);
    expect(await list({ project_id: carol.projectId })).toEqual([carol.projectId]);
    const page = await t.call(
      'GET',
      `/v1/fine_tuning/checkpoints/${encodeURIComponent(model)}/permissions?limit=1`,
    );
    expect(page.json).toMatchObject({
      object: 'list',
      has_more: true,
      first_id: made[1]!.id,
      last_id: made[1]!.id,
    });
    for (const { id } of made)
      await client.fineTuning.checkpoints.permissions.delete(id, { fine_tuned_model_checkpoint: model });
  });

  it('refuse foreign projects, foreign models and unknown permissions', async () => {
    await expect(share([carol.projectId, t.bob.projectId])).rejects.toMatchObject({
      status: 400,
      param: 'project_ids[1]',
    });
    expect(await seenBy(carol)).toBe(404); // all or none
    const foreign = new OpenAI({ apiKey: 'x', adminAPIKey: t.bob.key, baseURL: base, maxRetries: 0 });
    await expect(foreign.fineTuning.checkpoints.permissions.list(model)).rejects.toMatchObject({
      status: 404,
    });
    await expect(
      client.fineTuning.checkpoints.permissions.delete('cp_unknown', { fine_tuned_model_checkpoint: model }),
    ).rejects.toMatchObject({ status: 404, code: 'permission_not_found' });
    const empty = await t.call('POST', `/v1/fine_tuning/checkpoints/${model}/permissions`, {
      json: { project_ids: [] },
    });
    expect(empty.json.error).toMatchObject({ param: 'project_ids', code: 'empty_array' });
  });
});
