/** Jobs through the SDK beyond create and list: pause, resume, integrations, continuing from a tuned model. */
import { eq, sql } from 'drizzle-orm';
import OpenAI from 'openai';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { projects } from '../../src/db/schema.ts';
import { jobs, tunedModels } from '../../src/db/schema-jobs.ts';
import { pause, requestCancel, transition } from '../../src/domain/jobs/states.ts';
import { insertEvents } from '../../src/queue/sql.ts';
import { ObjectNotFound } from '../../src/storage/storage.ts';
import { BASE_MODEL, TEN_ROWS, useApp } from '../helpers/app.ts';
import { addJob, addTunedModel, jobRow } from './rows.ts';

const t = useApp();
let client: OpenAI;
beforeAll(async () => {
  client = new OpenAI({ apiKey: t.alice.key, baseURL: await t.serve() });
});

const events = async (id: string) =>
  (await t.call('GET', `/v1/fine_tuning/jobs/${id}/events`)).json.data.toReversed();
const hold = (id: string) =>
  t.database.db
    .update(jobs)
    .set({ workerId: 'w', epoch: 1, leaseUntil: new Date(Date.now() + 30_000) })
    .where(eq(jobs.id, id));

describe('pause and resume', () => {
  it('of a job that waits: it rests at once and comes back to the queue', async () => {
    const id = await addJob(t, t.alice);
    const paused = await client.fineTuning.jobs.pause(id);
    expect(paused).toMatchObject({ id, status: 'paused', finished_at: null, estimated_finish: null });
    const resumed = await client.fineTuning.jobs.resume(id);
    expect(resumed).toMatchObject({ id, status: 'queued' });
    expect((await events(id)).map((event: { message: string }) => event.message)).toEqual([
      `Created fine-tuning job: ${id}`,
      'Fine-tuning job paused',
      'Fine-tuning job resumed, moving job to queued state',
    ]);
  });

  it('of a running job waits for its trainer', async () => {
    const id = await addJob(t, t.alice);
    await hold(id);
    const pausing = client.fineTuning.jobs.pause(id);
    await expect.poll(async () => (await jobRow(t, id)).pauseRequestedAt).not.toBeNull();
    await t.database.transaction((tx) => pause(tx, id, { jobId: id, epoch: 1, workerId: 'w' }));
    expect((await pausing).status).toBe('paused');
    expect(await jobRow(t, id)).toMatchObject({ workerId: null, pauseRequestedAt: null });
  });

  it('answer 400 where they make no sense, once and not to be repeated', async () => {
    const id = await addJob(t, t.alice);
    const ask = async (verb: string) => {
      const answer = await t.call('POST', `/v1/fine_tuning/jobs/${id}/${verb}`);
      return [answer.status, answer.json.error?.code, answer.headers.get('x-should-retry')];
    };
    expect(await ask('resume')).toEqual([400, 'job_not_paused', 'false']);
    expect((await ask('pause'))[0]).toBe(200);
    expect(await ask('pause')).toEqual([400, 'job_not_pausable', 'false']);
    expect((await ask('cancel'))[0]).toBe(200);
    expect(await ask('pause')).toEqual([400, 'job_already_terminal', 'false']);
    expect(await ask('resume')).toEqual([400, 'job_already_terminal', 'false']);
  });

  it('a resume needs a free place where the number of active jobs is limited', async () => {
    const id = await addJob(t, t.bob);
    const ask = (verb: string) => t.call('POST', `/v1/fine_tuning/jobs/${id}/${verb}`, { key: t.bob.key });
    await ask('pause');
    const other = await addJob(t, t.bob); // takes the place
    await t.database.db.update(projects).set({ maxActiveJobs: 1 }).where(eq(projects.id, t.bob.projectId));
    const refused = await ask('resume');
    expect([refused.status, refused.json.error.code]).toEqual([429, 'job_limit_reached']);
    expect((await jobRow(t, id)).status).toBe('paused');
    await requestCancel(t.database, t.bob.projectId, other);
    expect((await ask('resume')).json.status).toBe('queued');
  });

  it('a pause of a job that is being cancelled is refused, a cancel of one that is being paused wins', async () => {
    const id = await addJob(t, t.alice);
    await hold(id);
    await requestCancel(t.database, t.alice.projectId, id);
    const refused = await t.call('POST', `/v1/fine_tuning/jobs/${id}/pause`);
    expect([refused.status, refused.json.error.message]).toEqual([
      400,
      `Job ${id} is being cancelled and cannot be paused.`,
    ]);
    const other = await addJob(t, t.alice);
    await hold(other);
    const pausing = t.call('POST', `/v1/fine_tuning/jobs/${other}/pause`);
    await expect.poll(async () => (await jobRow(t, other)).pauseRequestedAt).not.toBeNull();
    await transition(t.database.db, other, 'cancelled', { jobId: other, epoch: 1, workerId: 'w' });
    expect((await pausing).json.error.code).toBe('job_already_terminal');
    expect((await jobRow(t, other)).pauseRequestedAt).toBeNull();
  });
});

describe('lists and fields, through the SDK', () => {
  it('metadata filters page on, in both spellings of the SDK', async () => {
    const made: string[] = [];
    for (let i = 0; i < 5; i += 1)
      made.push(await addJob(t, t.alice, { metadata: { run: 'night', 'a b': `${i}` } }));
    const plain = await addJob(t, t.alice);
    const ids = async (metadata: Record<string, string> | null) => {
      const found: string[] = [];
      for await (const job of client.fineTuning.jobs.list({ limit: 2, metadata })) found.push(job.id);
      return found;
    };
    expect(await ids({ run: 'night' })).toEqual(made.toReversed());
    expect(await ids({ run: 'night', 'a b': '3' })).toEqual([made[3]]);
    const none = await ids(null);
    expect(none).toContain(plain);
    for (const id of made) expect(none).not.toContain(id);
  });

  it('the filters have indexes', async () => {
    const planOf = (condition: string) =>
      t.database.transaction(async (tx) => {
        await tx.execute(sql`set local enable_seqscan = off`);
        await tx.execute(sql`set local enable_indexscan = off`); // bitmap scans show an index of any kind
        const query = `explain select id from fine_tuning_jobs where ${condition}`;
        return JSON.stringify((await tx.execute(sql.raw(query))).rows);
      });
    expect(await planOf(`metadata @> '{"run":"night"}'::jsonb`)).toContain('fine_tuning_jobs_metadata');
    const none = `project_id = 'p' and coalesce(metadata, '{}'::jsonb) = '{}'::jsonb`;
    expect(await planOf(none)).toContain('fine_tuning_jobs_no_metadata');
  });

  it('estimated_finish is there while the job runs, and at no other time', async () => {
    const id = await addJob(t, t.alice);
    await hold(id);
    const fence = { jobId: id, epoch: 1, workerId: 'w' };
    const shown = async () => (await client.fineTuning.jobs.retrieve(id)).estimated_finish;
    await transition(t.database.db, id, 'queued', fence);
    expect(await shown()).toBeNull();
    await transition(t.database.db, id, 'running', fence);
    await insertEvents(t.database.db, fence, [], { finishInSeconds: 100 });
    const left = (await shown())! - Date.now() / 1000;
    expect(left).toBeGreaterThan(90);
    expect(left).toBeLessThan(101);
    await t.database.transaction((tx) => pause(tx, id, fence));
    expect(await shown()).toBeNull();
    await client.fineTuning.jobs.resume(id);
    await client.fineTuning.jobs.cancel(id);
    expect([await shown(), (await jobRow(t, id)).estimatedFinish]).toEqual([null, null]);
  });
});

describe('integrations', () => {
  const wandb = {
    type: 'wandb' as const,
    wandb: { project: 'p', name: 'run', entity: null, tags: ['a'] },
  };

  it('are stored and shown, and one event says that no tracker is configured', async () => {
    const training_file = await t.upload(TEN_ROWS);
    const job = await client.fineTuning.jobs.create({
      ...{ model: BASE_MODEL, training_file },
      integrations: [wandb, { type: 'wandb', wandb: { project: 'q' } }],
    });
    expect(job.integrations).toEqual([wandb, { type: 'wandb', wandb: { project: 'q' } }]);
    const warnings = (await events(job.id)).filter((event: { level: string }) => event.level === 'warn');
    expect(warnings).toHaveLength(1);
    expect(warnings[0].message).toContain('No tracker is configured');
    const without = await client.fineTuning.jobs.create({
      model: BASE_MODEL,
      training_file,
      integrations: [],
    });
    expect([without.integrations, (await events(without.id)).length]).toEqual([[], 1]);
  });

  it.each([
    [[{ type: 'mlflow' }], 'integrations[0].type'],
    [[{ type: 'wandb' }], 'integrations[0].wandb'],
    [[{ type: 'wandb', wandb: { project: '' } }], 'integrations[0].wandb.project'],
    [Array(6).fill(wandb), 'integrations'],
  ])('refuse %j', async (integrations, param) => {
    const training_file = await t.upload(TEN_ROWS);
    const answer = await t.call('POST', '/v1/fine_tuning/jobs', {
      json: { model: BASE_MODEL, training_file, integrations },
    });
    expect([answer.status, answer.json.error.param]).toEqual([400, param]);
  });
});

describe('continuing from a tuned model', () => {
  const CONFIG = {
    ...{ peft_type: 'LORA', r: 4, lora_alpha: 32, lora_dropout: 0.1, use_rslora: true },
    target_modules: ['v_proj', 'q_proj'],
  };
  async function tuned(tail: string, { kind = 'adapter', checkpoint = false } = {}) {
    const row = await addTunedModel(t, t.alice, { tail, checkpoint });
    const text = JSON.stringify(CONFIG);
    const stored = await t.storage.put(`${row.storagePrefix}/adapter_config.json`, Buffer.from(text));
    const files = [...row.files, { name: 'adapter_config.json', ...stored }];
    await t.database.db.update(tunedModels).set({ kind, files }).where(eq(tunedModels.id, row.id));
    return { ...row, files };
  }
  const create = async (model: string, fields: object = {}) =>
    t.call('POST', '/v1/fine_tuning/jobs', {
      json: { model, training_file: await t.upload(TEN_ROWS), ...fields },
    });

  it('inherits the adapter, keeps the base, and remembers the weights as they are', async () => {
    const start = await tuned('start000', { checkpoint: true });
    const answer = await create(start.id, { adapter: { lora_dropout: 0.3 } });
    expect(answer.json).toMatchObject({ model: start.id, adapter: { ...CONFIG, lora_dropout: 0.3 } });
    const row = await jobRow(t, answer.json.id);
    expect(row).toMatchObject({
      model: BASE_MODEL,
      startModel: start.id,
      start: { kind: 'adapter', storage_prefix: start.storagePrefix, files: start.files },
    });
    await t.call('DELETE', `/v1/models/${start.id}`);
    expect((await create(start.id)).json.error).toMatchObject({
      code: 'model_not_available',
      param: 'model',
    });
  });

  it('takes the same options in other words, and names the one that contradicts', async () => {
    const { id } = await tuned('fixed000');
    const same = { r: 4, lora_alpha: 32, use_rslora: true, target_modules: ['q_proj', 'v_proj', 'q_proj'] };
    expect((await create(id, { adapter: same })).status).toBe(200);
    for (const [adapter, param] of [
      [{ r: 8 }, 'adapter.r'],
      [{ lora_alpha: 8 }, 'adapter.lora_alpha'],
      [{ use_rslora: false }, 'adapter.use_rslora'],
      [{ target_modules: 'all-linear' }, 'adapter.target_modules'],
      [{ target_modules: ['q_proj'] }, 'adapter.target_modules'],
      [{ peft_type: 'FULL' }, 'adapter.peft_type'],
    ] as const) {
      const { status, json } = await create(id, { adapter });
      expect([status, json.error.param, json.error.code]).toEqual([400, param, 'conflicting_parameters']);
      expect(json.error.message).toContain(id);
    }
  });

  it('holds no connection while storage is asked', async () => {
    const start = await tuned('slow0000');
    const json = { model: start.id, training_file: await t.upload(TEN_ROWS) };
    const busy: number[] = [];
    const get = vi.spyOn(t.storage, 'get').mockImplementation(async () => {
      busy.push(t.database.pool.totalCount - t.database.pool.idleCount);
      throw new ObjectNotFound(start.storagePrefix);
    });
    const answers = [
      await t.call('POST', '/v1/fine_tuning/jobs', { json }),
      await t.call('POST', '/v1/fine_tuning/estimate', { json }),
    ];
    get.mockRestore();
    for (const { status, json } of answers)
      expect([status, json.error.param, json.error.code]).toEqual([400, 'model', 'model_not_available']);
    expect(busy).toEqual([0, 0]);
  });

  it('a fully tuned model continues whole', async () => {
    const { id } = await tuned('full0000', { kind: 'full' });
    expect((await create(id)).json.adapter).toEqual({ peft_type: 'FULL' });
    expect((await create(id, { adapter: { r: 8 } })).json.error.param).toBe('adapter.peft_type');
  });
});

it('reinforcement is refused by name', async () => {
  const answer = await t.call('POST', '/v1/fine_tuning/jobs', {
    json: {
      model: BASE_MODEL,
      training_file: 'file-x',
      method: { type: 'reinforcement', reinforcement: {} },
    },
  });
  expect(answer.json.error).toMatchObject({ param: 'method.type', code: 'unsupported_value' });
  expect(answer.json.error.message).toContain("'reinforcement'");
});
