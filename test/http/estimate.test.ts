// /v1/fine_tuning/estimate over real files, a real tokenizer thread and a real database.
import { eq } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';
import { workers } from '../../src/db/schema.ts';
import { jobEvents, jobs } from '../../src/db/schema-jobs.ts';
import { storedMethod } from '../../src/domain/jobs/methods.ts';
import { newId } from '../../src/ids.ts';
import { BASE_MODEL, TEN_ROWS } from '../helpers/app.ts';
import { useInspectedFiles } from './inspected-files.ts';

const { holder, there, post, body, dpo } = useInspectedFiles();

/** A trainer that lives; returns a function that removes it. */
async function trainer(memoryBytes: number | null, device = 'cpu'): Promise<() => Promise<void>> {
  const id = newId('worker_');
  const row = { id, kind: 'trainer', device, host: 'h', pid: 1, state: 'ready', memoryBytes };
  await holder.database.db.insert(workers).values({ ...row, heartbeatAt: new Date(Date.now() + 3_600_000) });
  return async () => void (await holder.database.db.delete(workers).where(eq(workers.id, id)));
}

describe('POST /v1/fine_tuning/estimate', () => {
  it('resolves every number as the job would, and counts tokens and steps', async () => {
    const hyperparameters = { n_epochs: 4, batch_size: 3 };
    const { status, json } = await post('estimate', body({ hyperparameters, validation_file: there.pairs }));
    expect(status).toBe(200);
    expect(json).toMatchObject({
      object: 'fine_tuning.estimate',
      model: BASE_MODEL,
      method: { type: 'supervised' },
      hyperparameters: { n_epochs: 4, batch_size: 3, learning_rate_multiplier: 1 },
      adapter: { peft_type: 'LORA', r: 8 },
      trainer: { max_length: 2048 },
      steps: { per_epoch: 4, total: 16, epochs: 4 },
      training_file: { format: 'chat', complete: true, examples: 10, errors_total: 0, dropped: 0 },
      // a preference file does not fit supervised training
      valid: false,
      validation_file: { errors_total: 1, errors: [{ code: 'invalid_validation_file', line: null }] },
    });
    const { tokens, labelled_tokens, estimated } = json.training_file;
    expect(labelled_tokens).toBeGreaterThan(30);
    expect(tokens).toBeGreaterThan(labelled_tokens);
    expect(estimated).toEqual({ examples: 10, tokens, labelled_tokens });
    expect(json.trained_tokens).toBe(4 * tokens);
    const none = await holder.database.db.select().from(jobs);
    expect(none).toEqual([]);
  });

  it('knows DPO: beta, pairs, and a pack with room for two answers', async () => {
    const { json } = await post('estimate', body({ ...dpo({ beta: 0.4 }), trainer: { max_length: 64 } }));
    expect(json).toMatchObject({
      valid: true,
      method: { type: 'dpo' },
      hyperparameters: { n_epochs: 3, batch_size: 1, beta: 0.4 },
      trainer: { max_tokens_per_pack: 128 },
      steps: { per_epoch: 12, total: 36, epochs: 3 },
      training_file: { format: 'preference', examples: 12 },
    });
  });

  it('says what memory a training needs, whether it fits and where', async () => {
    const alone = await post('estimate', body());
    expect(alone.json.memory).toMatchObject({
      devices: [],
      fits: null,
      reason: expect.stringContaining('No trainer'),
    });
    const remove = [await trainer(16 * 2 ** 30), await trainer(1 << 20, 'auto')];
    const lora = (await post('estimate', body())).json.memory;
    const full = (await post('estimate', body({ adapter: { peft_type: 'FULL' } }))).json.memory;
    expect(lora.devices).toMatchObject([
      { device: 'cpu', trainers: 1, memory_bytes: 16 * 2 ** 30, fits: true, recompute: false },
      { device: 'auto', trainers: 1, memory_bytes: 1 << 20, fits: false, recompute: true },
    ]);
    expect([lora.fits, lora.reason]).toEqual([true, null]);
    expect(lora.devices[1].required_bytes).toBeLessThan(lora.devices[0].required_bytes);
    expect(full.trainable_parameters).toBe(full.total_parameters);
    expect(lora.total_parameters).toBe(full.total_parameters + lora.trainable_parameters);
    await remove[0]!();
    expect((await post('estimate', body())).json.memory.fits).toBe(false);
    remove.push(await trainer(null, 'cuda'));
    expect((await post('estimate', body())).json.memory).toMatchObject({
      fits: null,
      reason: expect.stringContaining('not known'),
    });
    for (const end of remove) await end();
  });

  it('takes the time from finished jobs of the project, and says why when it cannot', async () => {
    const unknown = (await post('estimate', body())).json.time;
    expect(unknown).toEqual({
      seconds: null,
      tokens_per_second: null,
      reason: expect.stringContaining('No finished job'),
    });
    const id = newId('ftjob-');
    const { projectId } = holder.alice;
    await holder.database.db.insert(jobs).values({
      ...{ id, projectId, model: BASE_MODEL, trainingFile: there.chat, seed: 1, status: 'succeeded' },
      ...{ method: storedMethod({}), adapter: { peft_type: 'LORA' }, trainer: {}, finishedAt: new Date() },
    });
    const speeds = [5, 100, 300, 200];
    await holder.database.db.insert(jobEvents).values(
      speeds.map((tokens_per_second, i) => ({
        ...{ id: newId('ftevent-'), projectId, jobId: id, seq: i + 1, level: 'info', type: 'metrics' },
        ...{ message: `Step ${i + 1}`, data: { step: i + 1, tokens_per_second } },
      })),
    );
    const { json } = await post('estimate', body());
    // The median of all steps but the first.
    expect(json.time).toEqual({ seconds: json.trained_tokens / 200, tokens_per_second: 200, reason: null });
    expect((await post('estimate', body(dpo()))).json.time.seconds).toBeNull();
    const foreign = await holder.upload(TEN_ROWS, { key: holder.bob.key });
    const bob = await holder.call('POST', '/v1/fine_tuning/estimate', {
      json: body({ training_file: foreign }),
      key: holder.bob.key,
    });
    expect(bob.json.time.seconds).toBeNull();
  });

  it('has no numbers for a file that nothing can be learned from', async () => {
    const broken = await holder.upload('{"messages":[{"role":"user","content":"x"}]}\n'.repeat(10));
    const { json } = await post('estimate', body({ training_file: broken }));
    expect(json).toMatchObject({ valid: false, steps: null, trained_tokens: null, memory: null, time: null });
    expect(json.training_file).toMatchObject({ examples: 0, errors_total: 10 });
    expect(json.training_file.errors[0]).toMatchObject({ line: 1, code: 'no_assistant_message' });
  });

  it('counts what is cut off and left out', async () => {
    const long = JSON.stringify({
      messages: [
        { role: 'user', content: 'Go.' },
        { role: 'assistant', content: 'word '.repeat(200) },
      ],
    });
    const file = await holder.upload(`${TEN_ROWS}\n${long}`);
    const cut = await post('estimate', body({ training_file: file, trainer: { max_length: 64 } }));
    expect(cut.json.training_file).toMatchObject({
      examples: 11,
      truncated: 1,
      dropped: 0,
      longest_example: 63,
    });
    const drop = await post(
      'estimate',
      body({ training_file: file, trainer: { max_length: 64, overlong: 'drop' } }),
    );
    expect(drop.json.training_file).toMatchObject({ examples: 10, truncated: 0, dropped: 1 });
  });

  it.each([
    ['an unknown model', { model: 'nothing' }, 'model'],
    ['an unknown file', { training_file: 'file-nothing' }, 'training_file'],
    ['an unknown field', { epochs: 3 }, 'epochs'],
    [
      'beta 0',
      { method: { type: 'dpo', dpo: { hyperparameters: { beta: 0 } } } },
      'method.dpo.hyperparameters.beta',
    ],
    [
      'beta 2.1',
      { method: { type: 'dpo', dpo: { hyperparameters: { beta: 2.1 } } } },
      'method.dpo.hyperparameters.beta',
    ],
    ['reinforcement', { method: { type: 'reinforcement', reinforcement: {} } }, 'method.type'],
    ['a length beyond the context', { trainer: { max_length: 4096 } }, 'trainer.max_length'],
  ])('refuses %s as creating the job does', async (_name, change, param) => {
    const found = await post('estimate', body(change));
    const created = await post('jobs', body(change));
    expect(found.status).toBe(400);
    expect(found.json.error.param).toBe(param);
    expect(found.json).toEqual(created.json);
  });

  it("does not see another project's file", async () => {
    for (const path of ['estimate', 'validate', 'preview']) {
      const json = body();
      const answer = await holder.call('POST', `/v1/fine_tuning/${path}`, { json, key: holder.bob.key });
      expect([answer.status, answer.json.error.param]).toEqual([400, 'training_file']);
    }
  });
});
