/**
 * Two projects, each with one of everything: what belongs to the other answers exactly like what never existed, in
 * every route that takes an id, and is in no list.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { type Answer, useApp } from '../helpers/app.ts';
import { addBatch, addCheckpoint, addJob, addTunedModel, addWebhook } from './rows.ts';

const t = useApp();
type Ids = Record<
  | 'fine_tuned_model_checkpoint'
  | 'webhook_endpoint_id'
  | 'batch_id'
  | 'file_id'
  | 'fine_tuning_job_id'
  | 'model',
  string
>;
let alices: Ids;
let bobs: Ids;
let deleted: Partial<Ids>;

async function oneOfEverything(tenant: 'alice' | 'bob', tail: string): Promise<Ids> {
  const model = await addTunedModel(t, t[tenant], { tail });
  await addCheckpoint(t, t[tenant], model.jobId, 10, model.id);
  return {
    file_id: await t.upload('secret', { key: t[tenant].key, purpose: 'evals' }),
    batch_id: await addBatch(t, t[tenant]),
    fine_tuning_job_id: model.jobId,
    model: model.id,
    fine_tuned_model_checkpoint: model.id,
    webhook_endpoint_id: await addWebhook(t, t[tenant]),
  };
}

beforeAll(async () => {
  alices = await oneOfEverything('alice', 'alice000');
  bobs = await oneOfEverything('bob', 'bob00000');
  const { file_id, model } = await oneOfEverything('alice', 'deleted0');
  deleted = { file_id, model }; // jobs cannot be deleted
  await t.call('DELETE', `/v1/files/${file_id}`);
  await t.call('DELETE', `/v1/models/${model}`);
});

/** Every route with an id in its path: [method, pattern, name of the id]. */
const routes = () =>
  t.app.routes
    .filter((route) => route.method !== 'ALL' && route.path.startsWith('/v1/') && route.path.includes(':'))
    .map((route) => [route.method, route.path, /:(\w+)/.exec(route.path)?.[1] as keyof Ids] as const);

/** What a route needs in its body before it looks at the id. */
const BODIES: Record<string, object> = {
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
    expect(routes().length).toBeGreaterThanOrEqual(9);
    for (const [method, pattern, name] of routes()) {
      expect(Object.keys(alices)).toContain(name); // a new kind of id needs a fixture here
      const json = BODIES[`${method} ${pattern}`];
      const ask = (id: string) =>
        t.call(method, pattern.replace(/:\w+(\{[^}]*\})?/, id), { key: t.alice.key, ...(json && { json }) });
      const unknown = comparable(await ask('unknown-id'), 'unknown-id');
      expect(unknown.status).toBe(404);
      for (const id of [bobs[name], deleted[name], 'x'.repeat(300), "';--"]) {
        if (id === undefined) continue;
        expect([method, pattern, comparable(await ask(id), id)]).toEqual([method, pattern, unknown]);
      }
    }
  });

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
  });
});
