import { eq } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';
import { jobs } from '../../src/db/schema-jobs.ts';
import { transition } from '../../src/domain/jobs/states.ts';
import { insertEvents, message, metrics } from '../../src/queue/sql.ts';
import { type Answer, BASE_MODEL, TEN_ROWS, useApp } from '../helpers/app.ts';
import { addCheckpoint, addJob, addTunedModel, jobRow } from './rows.ts';

const t = useApp();
const idsOf = (answer: Answer) => answer.json.data.map((item: { id: string }) => item.id);

describe('POST /v1/fine_tuning/jobs', () => {
  it('answers with every field of a job', async () => {
    const file = await t.upload(TEN_ROWS);
    const answer = await t.call('POST', '/v1/fine_tuning/jobs', {
      json: { model: BASE_MODEL, training_file: file },
    });
    expect(answer.status).toBe(200);
    const auto = { n_epochs: 'auto', batch_size: 'auto', learning_rate_multiplier: 'auto' };
    expect(answer.json).toEqual({
      object: 'fine_tuning.job',
      id: expect.stringMatching(/^ftjob-[0-9A-Za-z]{24}$/),
      model: BASE_MODEL,
      created_at: expect.any(Number),
      finished_at: null,
      fine_tuned_model: null,
      organization_id: t.alice.organization.id,
      result_files: [],
      status: 'validating_files',
      validation_file: null,
      training_file: file,
      hyperparameters: auto,
      method: { type: 'supervised', supervised: { hyperparameters: auto } },
      adapter: { peft_type: 'LORA' },
      trainer: {},
      trained_tokens: null,
      error: null,
      user_provided_suffix: null,
      seed: expect.any(Number),
      estimated_finish: null,
      integrations: [],
      metadata: null,
    });
    expect(answer.json.seed).toBeGreaterThanOrEqual(0);
    expect((await t.call('GET', `/v1/fine_tuning/jobs/${answer.json.id}`)).json).toEqual(answer.json);
  });

  it('keeps everything that was asked', async () => {
    const [training_file, validation_file] = [await t.upload(TEN_ROWS), await t.upload(TEN_ROWS)];
    const answer = await t.call('POST', '/v1/fine_tuning/jobs', {
      json: {
        model: BASE_MODEL,
        training_file,
        validation_file,
        suffix: 'weather',
        seed: 2_147_483_647,
        metadata: { team: 'a', 'key with "quotes"': 'ü' },
        integrations: null,
        method: {
          type: 'supervised',
          supervised: {
            hyperparameters: { n_epochs: 3.0, batch_size: 'auto', learning_rate_multiplier: 0.5 },
          },
          dpo: { hyperparameters: { beta: 'auto' } },
          reinforcement: null,
        },
        hyperparameters: { n_epochs: 3, learning_rate_multiplier: 0.5 },
        adapter: {
          r: 4,
          lora_alpha: 32,
          target_modules: ['q_proj', 'model.layers.0.mlp.up_proj'],
          use_rslora: true,
          bias: 'none',
        },
        trainer: {
          lr_scheduler_type: 'cosine',
          warmup_ratio: 0.1,
          max_steps: -1,
          eval_steps: null,
          bf16: false,
        },
      },
    });
    expect(answer.json).toMatchObject({
      validation_file,
      user_provided_suffix: 'weather',
      seed: 2_147_483_647,
      metadata: { team: 'a', 'key with "quotes"': 'ü' },
      hyperparameters: { n_epochs: 3, batch_size: 'auto', learning_rate_multiplier: 0.5 },
      adapter: {
        peft_type: 'LORA',
        r: 4,
        lora_alpha: 32,
        target_modules: ['q_proj', 'model.layers.0.mlp.up_proj'],
        use_rslora: true,
      },
      trainer: {
        lr_scheduler_type: 'cosine',
        warmup_ratio: 0.1,
        max_steps: -1,
        eval_steps: null,
        bf16: false,
      },
    });
  });

  it('accepts the deprecated hyperparameters alone', async () => {
    const job = await jobRow(
      t,
      await addJob(t, t.alice, { hyperparameters: { n_epochs: 2, batch_size: 8 } }),
    );
    expect(job.method).toEqual({
      type: 'supervised',
      supervised: { hyperparameters: { n_epochs: 2, batch_size: 8, learning_rate_multiplier: 'auto' } },
    });
  });

  it.each(['my orders: spring/2026', 'Übung', '🙂'.repeat(64)])(
    'gives the suffix %j back as it came',
    async (suffix) => {
      const training_file = await t.upload(TEN_ROWS);
      const answer = await t.call('POST', '/v1/fine_tuning/jobs', {
        json: { model: BASE_MODEL, training_file, suffix },
      });
      expect([answer.status, answer.json.user_provided_suffix]).toEqual([200, suffix]);
    },
  );

  it('starts the list of events', async () => {
    const id = await addJob(t, t.alice);
    const events = await t.call('GET', `/v1/fine_tuning/jobs/${id}/events`);
    expect(events.json).toEqual({
      object: 'list',
      data: [
        {
          object: 'fine_tuning.job.event',
          id: expect.stringMatching(/^ftevent-/),
          created_at: expect.any(Number),
          level: 'info',
          message: `Created fine-tuning job: ${id}`,
          type: 'message',
          data: {},
        },
      ],
      has_more: false,
    });
  });

  it("refuses other people's files and models as if they did not exist", async () => {
    const mine = await t.upload(TEN_ROWS);
    const theirs = await t.upload(TEN_ROWS, { key: t.bob.key });
    const create = (json: object) =>
      t.call('POST', '/v1/fine_tuning/jobs', { json: { model: BASE_MODEL, training_file: mine, ...json } });
    for (const param of ['training_file', 'validation_file']) {
      const [foreign, unknown] = [
        await create({ [param]: theirs }),
        await create({ [param]: 'file-unknown' }),
      ];
      expect([foreign.status, foreign.json.error.code, foreign.json.error.param]).toEqual([400, null, param]);
      expect(foreign.text.replaceAll(theirs, 'X')).toBe(unknown.text.replaceAll('file-unknown', 'X'));
    }
    const foreign = await addTunedModel(t, t.bob, { tail: 'bob00000' });
    const deleted = await addTunedModel(t, t.alice, { tail: 'gone0000' });
    await t.call('DELETE', `/v1/models/${deleted.id}`);
    const bodies = [];
    for (const model of [foreign.id, deleted.id, 'ft:unknown', 'unknown']) {
      const answer = await create({ model });
      expect(answer.status).toBe(400);
      bodies.push(answer.text.replaceAll(model, 'X'));
    }
    expect(new Set(bodies).size).toBe(1);
    expect(JSON.parse(bodies[0] ?? '').error).toMatchObject({
      message: 'Model X is not available for fine-tuning or does not exist.',
      code: 'model_not_available',
      param: 'model',
    });
  });

  it('takes a file for fine-tuning only', async () => {
    const training_file = await t.upload('x', { purpose: 'user_data', filename: 'x.txt' });
    const answer = await t.call('POST', '/v1/fine_tuning/jobs', {
      json: { model: BASE_MODEL, training_file },
    });
    expect(answer.json.error).toMatchObject({ code: 'invalid_file_purpose', param: 'training_file' });
  });
});

describe('GET /v1/fine_tuning/jobs', () => {
  it('pages newest first', async () => {
    const ids: string[] = [];
    for (let i = 0; i < 3; i++) ids.push(await addJob(t, t.alice, { metadata: { page: 'yes' } }));
    const filter = 'metadata[page]=yes';
    const first = await t.call('GET', `/v1/fine_tuning/jobs?limit=2&${filter}`);
    expect(Object.keys(first.json)).toEqual(['object', 'data', 'has_more']);
    expect([idsOf(first), first.json.has_more]).toEqual([[ids[2], ids[1]], true]);
    const second = await t.call('GET', `/v1/fine_tuning/jobs?limit=2&after=${ids[1]}&${filter}`);
    expect([idsOf(second), second.json.has_more]).toEqual([[ids[0]], false]);
    expect((await t.call('GET', '/v1/fine_tuning/jobs?limit=1000000')).status).toBe(200);
    const empty = await t.call('GET', `/v1/fine_tuning/jobs?limit=2&after=&${filter}`); // no cursor yet
    expect(idsOf(empty)).toEqual(idsOf(first));
    expect((await t.call('GET', '/v1/fine_tuning/jobs?after=ftjob-none')).json.error).toMatchObject({
      code: 'invalid_value',
      param: 'after',
    });
  });

  it('filters by metadata in every spelling', async () => {
    const both = await addJob(t, t.alice, { metadata: { color: 'red', 'a[b]': 'c&d' } });
    const one = await addJob(t, t.alice, { metadata: { color: 'red' } });
    const blue = await addJob(t, t.alice, { metadata: { color: 'blue' } });
    const none = await addJob(t, t.alice, { metadata: {} });
    const list = async (query: string) =>
      idsOf(await t.call('GET', `/v1/fine_tuning/jobs?limit=1000&${query}`));
    expect(await list('metadata[color]=red')).toEqual([one, both]);
    expect(await list('metadata%5Bcolor%5D=red')).toEqual([one, both]);
    expect(await list('metadata[color]=red&metadata[a%5Bb%5D]=c%26d')).toEqual([both]);
    expect(await list('metadata[color]=green')).toEqual([]);
    for (const odd of [
      'metadata.color=red',
      'metadata[color][]=red',
      'metadata[]=red',
      'metadata[color=red',
    ]) {
      const refused = await t.call('GET', `/v1/fine_tuning/jobs?${odd}`);
      expect([odd, refused.status, refused.json.error.param]).toEqual([odd, 400, 'metadata']);
    }
    for (const spelling of ['metadata=', 'metadata=null', 'metadata']) {
      const found = await list(spelling);
      expect(found).toContain(none);
      expect(found).not.toContain(one);
    }
    expect(await list('')).toEqual(expect.arrayContaining([both, one, blue, none]));
    const bad = await t.call('GET', '/v1/fine_tuning/jobs?metadata=x');
    expect(bad.json.error).toMatchObject({ param: 'metadata', code: 'invalid_value' });
  });
});

describe('a running job', () => {
  it('shows what its trainer wrote', async () => {
    const id = await addJob(t, t.alice);
    await t.database.db
      .update(jobs)
      .set({
        trainedTokens: 1234,
        fineTunedModel: 'ft:x',
        resultFiles: ['file-1'],
        error: { code: 'invalid_training_file', message: 'Bad.', param: 'training_file' },
        estimatedFinish: new Date(1_900_000_000_999),
      })
      .where(eq(jobs.id, id));
    const before = await t.call('GET', `/v1/fine_tuning/jobs/${id}`);
    expect([before.json.status, before.json.trained_tokens]).toEqual(['validating_files', null]);
    await transition(t.database.db, id, 'failed', null);
    const job = await t.call('GET', `/v1/fine_tuning/jobs/${id}`);
    expect(job.json).toMatchObject({
      status: 'failed',
      trained_tokens: 1234,
      fine_tuned_model: 'ft:x',
      result_files: ['file-1'],
      error: { code: 'invalid_training_file', message: 'Bad.', param: 'training_file' },
      finished_at: expect.any(Number),
    });
  });

  it('lists events newest first, with metrics', async () => {
    const id = await addJob(t, t.alice);
    for (let step = 1; step <= 3; step++) {
      await insertEvents(t.database.db, { jobId: id }, [
        metrics(`Step ${step}/3: training loss=0.50`, { step, train_loss: 0.5, total_steps: 3 }),
      ]);
    }
    await insertEvents(t.database.db, { jobId: id }, [message('warn', 'Odd.')]);
    const url = `/v1/fine_tuning/jobs/${id}/events`;
    const first = await t.call('GET', `${url}?limit=2`);
    expect(first.json.data.map((e: { message: string }) => e.message)).toEqual([
      'Odd.',
      'Step 3/3: training loss=0.50',
    ]);
    expect(first.json.data[1]).toMatchObject({
      type: 'metrics',
      data: { step: 3, train_loss: 0.5, total_steps: 3 },
    });
    const rest = await t.call('GET', `${url}?after=${first.json.data[1].id}`);
    expect(rest.json).toMatchObject({
      has_more: false,
      data: [{ data: { step: 2 } }, { data: { step: 1 } }, { message: `Created fine-tuning job: ${id}` }],
    });
    const foreign = await t.call('GET', `${url}?after=ftevent-unknown`);
    expect(foreign.json.error).toMatchObject({ param: 'after', code: 'invalid_value' });
  });

  it('lists the checkpoints that can be used, highest step first', async () => {
    const id = await addJob(t, t.alice);
    await addCheckpoint(t, t.alice, id, 5, null);
    const checkpoints = [10, 20, 30].map(
      (step) => [step, `ft:x:acme::${step}aaaaaa:ckpt-step-${step}`] as const,
    );
    const ids: string[] = [];
    for (const [step, name] of checkpoints) ids.push(await addCheckpoint(t, t.alice, id, step, name));
    const url = `/v1/fine_tuning/jobs/${id}/checkpoints`;
    const page = await t.call('GET', `${url}?limit=2`);
    expect(page.json).toMatchObject({ object: 'list', has_more: true, first_id: ids[2], last_id: ids[1] });
    expect(page.json.data[0]).toEqual({
      object: 'fine_tuning.job.checkpoint',
      id: ids[2],
      created_at: expect.any(Number),
      fine_tuned_model_checkpoint: checkpoints[2]?.[1],
      fine_tuning_job_id: id,
      step_number: 30,
      metrics: { step: 30, train_loss: 0.5 },
    });
    expect((await t.call('GET', `${url}?after=${ids[1]}`)).json).toMatchObject({
      has_more: false,
      first_id: ids[0],
      last_id: ids[0],
    });
  });
});

describe('POST …/cancel', () => {
  it('cancels a job that nobody holds at once, without a body or with any', async () => {
    for (const options of [{}, { json: {} }, { json: { reason: 'x' } }]) {
      const id = await addJob(t, t.alice);
      const answer = await t.call('POST', `/v1/fine_tuning/jobs/${id}/cancel`, options);
      expect([answer.status, answer.json.status, answer.json.id]).toEqual([200, 'cancelled', id]);
      expect(answer.json.finished_at).toEqual(expect.any(Number));
    }
  });

  it('waits for the trainer that holds the job', async () => {
    const id = await addJob(t, t.alice);
    await t.database.db
      .update(jobs)
      .set({ workerId: 'w', epoch: 1, leaseUntil: new Date(Date.now() + 30_000) })
      .where(eq(jobs.id, id));
    const cancelling = t.call('POST', `/v1/fine_tuning/jobs/${id}/cancel`);
    await expect.poll(async () => (await jobRow(t, id)).cancelRequestedAt).not.toBeNull();
    await transition(t.database.db, id, 'cancelled', { jobId: id, epoch: 1, workerId: 'w' });
    expect((await cancelling).json.status).toBe('cancelled');
  });

  it('is refused for a job that has ended, and not to be repeated', async () => {
    const id = await addJob(t, t.alice);
    await t.call('POST', `/v1/fine_tuning/jobs/${id}/cancel`);
    const again = await t.call('POST', `/v1/fine_tuning/jobs/${id}/cancel`);
    expect([again.status, again.headers.get('x-should-retry')]).toEqual([400, 'false']);
    expect(again.json.error.message).toContain("'cancelled'");
  });
});
