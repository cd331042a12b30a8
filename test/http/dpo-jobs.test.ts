// Preference jobs on the wire: what creating one accepts, echoes and refuses, through the official SDK.
import OpenAI from 'openai';
import { beforeAll, describe, expect, it } from 'vitest';
import { BASE_MODEL, TEN_ROWS, useApp } from '../helpers/app.ts';

const holder = useApp();
let client: OpenAI;
let file: string;

beforeAll(async () => {
  client = new OpenAI({ baseURL: await holder.serve(), apiKey: holder.alice.key, maxRetries: 0 });
  file = await holder.upload(TEN_ROWS);
});

const create = (body: object) =>
  holder.call('POST', '/v1/fine_tuning/jobs', { json: { model: BASE_MODEL, training_file: file, ...body } });

describe('a dpo job', () => {
  it('is created by the SDK, with settings of other methods beside it, and echoed', async () => {
    const job = await client.fineTuning.jobs.create({
      model: BASE_MODEL,
      training_file: file,
      method: {
        type: 'dpo',
        dpo: { hyperparameters: { beta: 0.3, n_epochs: 2 } },
        supervised: { hyperparameters: { n_epochs: 7 } },
      },
    });
    const auto = { batch_size: 'auto', learning_rate_multiplier: 'auto' };
    expect(job.method).toEqual({
      type: 'dpo',
      dpo: { hyperparameters: { ...auto, n_epochs: 2, beta: 0.3 } },
    });
    expect(job.hyperparameters).toEqual({ ...auto, n_epochs: 2 });
    expect((await client.fineTuning.jobs.retrieve(job.id)).method).toEqual(job.method);
    const listed = await client.fineTuning.jobs.list();
    expect(listed.data.find(({ id }) => id === job.id)?.method?.type).toBe('dpo');
  });

  it.each([
    ['nothing more', { type: 'dpo' }],
    ['null', { type: 'dpo', dpo: null }],
    ['auto', { type: 'dpo', dpo: { hyperparameters: { beta: 'auto' } } }],
  ])('needs %s', async (_name, method) => {
    const { status, json } = await create({ method });
    expect(status).toBe(200);
    expect(json.method.dpo.hyperparameters.beta).toBe('auto');
  });

  it.each([
    [0, 'decimal_below_min_value'],
    [-1, 'decimal_below_min_value'],
    [2.01, 'decimal_above_max_value'],
  ])('refuses beta %d', async (beta, code) => {
    const { status, json } = await create({ method: { type: 'dpo', dpo: { hyperparameters: { beta } } } });
    expect([status, json.error.param, json.error.code]).toEqual([
      400,
      'method.dpo.hyperparameters.beta',
      code,
    ]);
  });

  it('refuses numbers that disagree with the deprecated ones, and unknown names', async () => {
    const differs = await create({
      hyperparameters: { n_epochs: 3 },
      method: { type: 'dpo', dpo: { hyperparameters: { n_epochs: 2 } } },
    });
    expect([differs.status, differs.json.error.code]).toEqual([400, 'conflicting_parameters']);
    const unknown = await create({ method: { type: 'dpo', dpo: { hyperparameters: { betta: 1 } } } });
    expect([unknown.status, unknown.json.error.param]).toEqual([400, 'method.dpo.hyperparameters.betta']);
    expect(unknown.json.error.message).toContain('beta');
    const supervised = await create({
      method: { type: 'supervised', supervised: { hyperparameters: { beta: 0.1 } } },
    });
    expect([supervised.status, supervised.json.error.param]).toEqual([
      400,
      'method.supervised.hyperparameters.beta',
    ]);
  });
});
