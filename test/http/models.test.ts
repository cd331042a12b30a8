import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';
import { baseModels, workers } from '../../src/db/schema.ts';
import { newId } from '../../src/ids.ts';
import { BASE_MODEL, CONTEXT_LENGTH, TEN_ROWS, useApp } from '../helpers/app.ts';
import { addTunedModel } from './rows.ts';

const t = useApp();

describe('/v1/models', () => {
  it('lists base models, then the tuned ones of the project', async () => {
    const first = await addTunedModel(t, t.alice, { tail: 'list0001', checkpoint: true, step: 5 });
    const second = await addTunedModel(t, t.alice, { tail: 'list0002' });
    await addTunedModel(t, t.bob, { tail: 'list0003' });
    const answer = await t.call('GET', '/v1/models');
    const shared = {
      object: 'model',
      created: expect.any(Number),
      shutdown_date: null,
      family: 'qwen3',
      context_length: CONTEXT_LENGTH,
      parameter_count: 4_000_000,
    };
    const tuned = (row: typeof first) => ({
      ...shared,
      id: row.id,
      owned_by: 'acme',
      kind: 'adapter',
      base_model: BASE_MODEL,
      fine_tuning_job_id: row.jobId,
      step_number: row.step,
      is_checkpoint: row.isCheckpoint,
    });
    expect(answer.json).toEqual({
      object: 'list',
      data: [{ ...shared, id: BASE_MODEL, owned_by: 'lathe', kind: 'base' }, tuned(second), tuned(first)],
    });
    for (const row of [first, second])
      expect((await t.call('GET', `/v1/models/${row.id}`)).json).toEqual(tuned(row));
  });

  it('lists the newest 10,000 tuned models, and finds the older ones', async () => {
    const { id, jobId } = await addTunedModel(t, t.bob, { tail: 'first000' });
    await t.database.db.execute(sql`
      insert into tuned_models (id, project_id, job_id, base_model, kind, owned_by, step, is_checkpoint, storage_prefix, files, digest)
      select 'ft:many:' || i, project_id, ${jobId}, base_model, kind, owned_by, step, is_checkpoint, storage_prefix, files, digest
      from tuned_models, generate_series(1, 10000) i where id = ${id}`);
    const { data } = (await t.call('GET', '/v1/models', { key: t.bob.key })).json;
    expect(data.length).toBe(1 + 10_000);
    expect(data.map((model: { id: string }) => model.id)).not.toContain(id);
    expect((await t.call('GET', `/v1/models/${id}`, { key: t.bob.key })).status).toBe(200);
  });

  it.each([
    ['raw', (id: string) => id],
    ['percent-encoded', encodeURIComponent],
    ['half encoded', (id: string) => id.replaceAll(':', '%3A')],
  ])('finds ids with : and / in the path, %s', async (how, encode) => {
    const tuned = await addTunedModel(t, t.alice, {
      tail: how.slice(0, 8).padEnd(8, 'x').replace(/\W/g, 'z'),
      checkpoint: true,
    });
    for (const id of [BASE_MODEL, tuned.id]) {
      const answer = await t.call('GET', `/v1/models/${encode(id)}`);
      expect([answer.status, answer.json?.id]).toEqual([200, id]);
    }
    const removed = await t.call('DELETE', `/v1/models/${encode(tuned.id)}`);
    expect(removed.json).toEqual({ id: tuned.id, object: 'model', deleted: true });
  });

  it('forgets a deleted model', async () => {
    const { id } = await addTunedModel(t, t.alice, { tail: 'gone0000' });
    await t.call('DELETE', `/v1/models/${id}`);
    for (const method of ['GET', 'DELETE']) {
      const answer = await t.call(method, `/v1/models/${id}`);
      expect([answer.status, answer.json.error]).toEqual([
        404,
        {
          message: `The model '${id}' does not exist`,
          type: 'invalid_request_error',
          param: 'model',
          code: 'model_not_found',
        },
      ]);
    }
    expect((await t.call('GET', '/v1/models')).text).not.toContain(id);
  });

  it('does not let a project delete a base model', async () => {
    const answer = await t.call('DELETE', `/v1/models/${BASE_MODEL}`);
    expect([answer.status, answer.json.error.code]).toEqual([403, 'permission_denied']);
    expect((await t.call('GET', `/v1/models/${BASE_MODEL}`)).status).toBe(200);
  });

  it('offers the base models that somebody has, serving or training, heard of within a minute', async () => {
    const ids = ['kept/by-inference', 'kept/by-trainer', 'gone/silent', 'gone/removed'];
    for (const id of ids) {
      await t.database.db.insert(baseModels).values({
        ...{ id, location: '/models/x', family: 'qwen3', parameterCount: 1, contextLength: 8, config: {} },
      });
    }
    const row = { device: 'none', host: 'h', pid: 1 };
    const ago = (seconds: number) => new Date(Date.now() - 1000 * seconds);
    await t.database.db.insert(workers).values([
      { ...row, id: newId('worker_'), kind: 'inference', state: 'starting', baseModel: 'kept/by-inference' },
      { ...row, id: newId('worker_'), kind: 'trainer', state: 'ready', baseModels: ['x', 'kept/by-trainer'] },
      {
        ...{ ...row, id: newId('worker_'), kind: 'inference', state: 'ready' },
        ...{ baseModel: 'gone/silent', heartbeatAt: ago(90) },
      },
    ]);
    const { data } = (await t.call('GET', '/v1/models')).json;
    const bases = data.filter((model: { kind: string }) => model.kind === 'base');
    expect(bases.map((model: { id: string }) => model.id)).toEqual([BASE_MODEL, ...ids.slice(0, 2)]);
    for (const id of ids) {
      const { status, json } = await t.call('GET', `/v1/models/${encodeURIComponent(id)}`);
      expect([status, json.error?.code]).toEqual(
        id.startsWith('kept') ? [200, undefined] : [404, 'model_not_found'],
      );
    }
    // A job may be waiting for its trainer to be started, and says so.
    const training_file = await t.upload(TEN_ROWS);
    for (const [model, warnings] of [
      ['kept/by-trainer', 0],
      ['gone/removed', 1],
    ] as const) {
      const job = await t.call('POST', '/v1/fine_tuning/jobs', { json: { model, training_file } });
      const events = (await t.call('GET', `/v1/fine_tuning/jobs/${job.json.id}/events`)).json.data;
      const said = events.filter((event: { level: string }) => event.level === 'warn');
      expect(said.length).toBe(warnings);
      if (warnings) expect(said[0].message).toContain(`has the base model '${model}' is there`);
    }
  });
});
