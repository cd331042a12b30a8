/**
 * Two projects, each with one of everything: what belongs to the other answers exactly like what never existed, in
 * every route that takes an id, and is in no list.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { type Answer, useApp } from '../helpers/app.ts';
import { addAdminObjects, adminKeyOf } from './admin-rows.ts';
import {
  addBatch,
  addChatCompletion,
  addCheckpoint,
  addExport,
  addJob,
  addTunedModel,
  addUpload,
  addWebhook,
} from './rows.ts';

const t = useApp();
type Ids = Awaited<ReturnType<typeof addAdminObjects>> &
  Record<
    | 'fine_tuned_model_checkpoint'
    | 'webhook_endpoint_id'
    | 'batch_id'
    | 'completion_id'
    | 'upload_id'
    | 'export_id'
    | 'file_id'
    | 'fine_tuning_job_id'
    | 'model',
    string
  >;
let alices: Ids;
let bobs: Ids;
let deleted: Partial<Ids>;
let admins: Record<'alice' | 'bob', string>;

async function oneOfEverything(tenant: 'alice' | 'bob', tail: string): Promise<Ids> {
  const model = await addTunedModel(t, t[tenant], { tail });
  await addCheckpoint(t, t[tenant], model.jobId, 10, model.id);
  return {
    ...(await addAdminObjects(t, t[tenant], admins[tenant], model.id)),
    file_id: await t.upload('secret', { key: t[tenant].key, purpose: 'evals' }),
    batch_id: await addBatch(t, t[tenant]),
    completion_id: await addChatCompletion(t, t[tenant]),
    upload_id: await addUpload(t, t[tenant]),
    export_id: await addExport(t, t[tenant], model.id),
    fine_tuning_job_id: model.jobId,
    model: model.id,
    fine_tuned_model_checkpoint: model.id,
    webhook_endpoint_id: await addWebhook(t, t[tenant]),
  };
}

beforeAll(async () => {
  admins = { alice: (await adminKeyOf(t, t.alice)).key, bob: (await adminKeyOf(t, t.bob)).key };
  alices = await oneOfEverything('alice', 'alice000');
  bobs = await oneOfEverything('bob', 'bob00000');
  const { file_id, model, api_key_id, service_account_id, key_id } = await oneOfEverything(
    'alice',
    'deleted0',
  );
  deleted = { file_id, model, api_key_id, service_account_id, key_id }; // jobs cannot be deleted
  for (const path of [
    `projects/${t.alice.projectId}/api_keys/${api_key_id}`,
    `projects/${t.alice.projectId}/service_accounts/${service_account_id}`,
    `admin_api_keys/${key_id}`,
  ])
    await t.call('DELETE', `/v1/organization/${path}`, { key: admins.alice });
  await t.call('DELETE', `/v1/files/${file_id}`);
  await t.call('DELETE', `/v1/models/${model}`);
});

/** Every id in the path of every route: [method, pattern, name of the id]. */
const places = () =>
  t.app.routes
    .filter((route) => route.method !== 'ALL' && route.path.startsWith('/v1/'))
    .flatMap((route) =>
      [...route.path.matchAll(/:(\w+)/g)].map(
        (match) => [route.method, route.path, match[1] as keyof Ids] as const,
      ),
    );

/** What a route needs in its body before it looks at the id. */
const BODIES: Record<string, object> = {
  'POST /v1/chat/completions/:completion_id': { metadata: null },
  'POST /v1/organization/projects/:project_id': { name: 'x' },
  'POST /v1/organization/projects/:project_id/rate_limits/:rate_limit_id{.+}': {
    max_requests_per_1_minute: 1,
  },
  'POST /v1/organization/projects/:project_id/api_keys': { name: 'x' },
  'POST /v1/organization/projects/:project_id/api_keys/:api_key_id': { scopes: [] },
  'POST /v1/organization/projects/:project_id/service_accounts': { name: 'x' },
  'POST /v1/organization/projects/:project_id/service_accounts/:service_account_id': { name: 'x' },
  'POST /v1/organization/projects/:project_id/service_accounts/:service_account_id/api_keys': { name: 'x' },
  'POST /v1/uploads/:upload_id/complete': { part_ids: ['part_x'] },
  'POST /v1/fine_tuning/checkpoints/:fine_tuned_model_checkpoint{.+}/permissions': {
    project_ids: ['proj_x'],
  },
  'POST /v1/webhook_endpoints/:webhook_endpoint_id/test': { event_type: 'fine_tuning.job.succeeded' },
};

const comparable = (answer: Answer, id: string) => {
  const varying = new Set(['x-request-id', 'openai-processing-ms', 'content-length']);
  const headers = [...answer.headers].filter(([name]) => !varying.has(name));
  return { status: answer.status, text: answer.text.replaceAll(id, 'X'), headers };
};

describe('ids of another project', () => {
  it('answer like unknown ones, in every route', async () => {
    expect(places().length).toBeGreaterThanOrEqual(30);
    for (const [method, pattern, name] of places()) {
      expect(Object.keys(alices)).toContain(name); // a new kind of id needs a fixture here
      const json = BODIES[`${method} ${pattern}`];
      const key = pattern.startsWith('/v1/organization/') ? admins.alice : t.alice.key;
      // The other ids in the path are Alice's own.
      const url = (id: string) =>
        pattern.replace(/:(\w+)(\{[^}]*\})?/g, (_, each) => (each === name ? id : alices[each as keyof Ids]));
      const ask = (id: string) => t.call(method, url(id), { key, ...(json && { json }) });
      const unknown = comparable(await ask('unknown-id'), 'unknown-id');
      expect([method, pattern, name, unknown.status]).toEqual([method, pattern, name, 404]);
      const foreign = bobs[name] === alices[name] ? undefined : bobs[name]; // some ids are everybody's
      for (const id of [foreign, deleted[name], 'x'.repeat(300), "';--"]) {
        if (id === undefined) continue;
        expect([method, pattern, comparable(await ask(id), id)]).toEqual([method, pattern, unknown]);
      }
    }
  }, 60_000);

  it('leave no trace in lists, pages and filters', async () => {
    const all = [
      '/v1/files',
      '/v1/fine_tuning/jobs?limit=1000',
      '/v1/models',
      '/v1/batches',
      '/v1/fine_tuning/jobs?metadata=',
    ];
    for (const url of all) {
      const { text } = await t.call('GET', url, { key: t.alice.key });
      for (const id of Object.values(bobs)) expect(text).not.toContain(id);
      expect(text).not.toContain(t.bob.organization.id);
    }
    const project = `/v1/organization/projects/${t.alice.projectId}`;
    for (const [url, id] of [
      ['/v1/organization/projects', bobs.project_id],
      ['/v1/organization/admin_api_keys', bobs.key_id],
      [`${project}/api_keys`, bobs.api_key_id],
      [`${project}/service_accounts`, bobs.service_account_id],
    ] as const) {
      const key = admins.alice;
      expect((await t.call('GET', url, { key })).text).not.toContain(id);
      const foreign = await t.call('GET', `${url}?after=${id}`, { key });
      const unknown = await t.call('GET', `${url}?after=unknown`, { key });
      expect([url, foreign.status, foreign.text.replaceAll(id, 'X')]).toEqual([
        ...[url, 400, unknown.text.replaceAll('unknown', 'X')],
      ]);
    }
    for (const [url, id] of [
      ['/v1/files', bobs.file_id],
      ['/v1/batches', bobs.batch_id],
      ['/v1/fine_tuning/jobs', bobs.fine_tuning_job_id],
    ] as const) {
      const foreign = await t.call('GET', `${url}?after=${id}`, { key: t.alice.key });
      const unknown = await t.call('GET', `${url}?after=unknown`, { key: t.alice.key });
      expect(foreign.text.replaceAll(id, 'X')).toBe(unknown.text.replaceAll('unknown', 'X'));
    }
    const mine = await addJob(t, t.alice);
    const events = await t.call('GET', `/v1/fine_tuning/jobs/${bobs.fine_tuning_job_id}/events`, {
      key: t.bob.key,
    });
    const cursor = events.json.data[0].id;
    const foreign = await t.call('GET', `/v1/fine_tuning/jobs/${mine}/events?after=${cursor}`);
    expect([foreign.status, foreign.json.error.param]).toEqual([400, 'after']);
  });

  it('are untouched by it all', async () => {
    expect((await t.call('GET', `/v1/files/${bobs.file_id}`, { key: t.bob.key })).status).toBe(200);
    expect((await t.call('GET', `/v1/models/${bobs.model}`, { key: t.bob.key })).status).toBe(200);
    const job = await t.call('GET', `/v1/fine_tuning/jobs/${bobs.fine_tuning_job_id}`, { key: t.bob.key });
    expect(job.json.status).toBe('validating_files');
    const project = `/v1/organization/projects/${bobs.project_id}`;
    for (const path of ['', `/api_keys/${bobs.api_key_id}`, `/service_accounts/${bobs.service_account_id}`])
      expect((await t.call('GET', project + path, { key: admins.bob })).status).toBe(200);
  });
});
