/** The matrix: fine-tuning jobs from creation to the tuned model, in both methods, with all that belongs to them. */
import type OpenAI from 'openai';
import { BadRequestError, NotFoundError } from 'openai';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { chatRows, type Matrix, MODEL } from './harness.ts';

type Job = OpenAI.FineTuning.Jobs.FineTuningJob;
type CreateParams = OpenAI.FineTuning.Jobs.JobCreateParams;

const preferenceRows = Array.from({ length: 10 }, (_, i) =>
  JSON.stringify({
    input: { messages: [{ role: 'user', content: `Say ${i}.` }] },
    preferred_output: [{ role: 'assistant', content: `It is ${i}.` }],
    non_preferred_output: [{ role: 'assistant', content: 'No.' }],
  }),
).join('\n');

/** Fields of ours, which the SDK's types do not know. */
const SHORT = { trainer: { max_steps: 2, save_steps: 1 } };
const ENDS = ['succeeded', 'failed', 'cancelled'];

export function jobsMatrix(m: () => Matrix): void {
  const upload = async (text: string) =>
    (await m().client.files.create({ file: new File([text], 'data.jsonl'), purpose: 'fine-tune' })).id;
  const until = (id: string, statuses: string[]) =>
    vi.waitFor(
      async () => {
        const job = await m().client.fineTuning.jobs.retrieve(id);
        if (!statuses.includes(job.status)) throw new Error(`${job.status} ${JSON.stringify(job.error)}`);
        return job;
      },
      { timeout: 60_000, interval: 100 },
    );
  const create = async (params: Partial<CreateParams> & object) =>
    m().client.fineTuning.jobs.create({
      model: MODEL,
      training_file: await upload(chatRows(12)),
      ...params,
    } as CreateParams);

  describe('fine-tuning jobs', () => {
    let tuned: Job;
    beforeAll(async () => {
      const job = await create({
        validation_file: await upload(chatRows(3, 50)),
        suffix: 'matrix',
        seed: 11,
        metadata: { area: 'matrix' },
        integrations: [{ type: 'wandb', wandb: { project: 'p', name: 'n', entity: null, tags: ['a'] } }],
        method: {
          type: 'supervised',
          supervised: { hyperparameters: { n_epochs: 1, batch_size: 4, learning_rate_multiplier: 2 } },
        },
        ...SHORT,
      });
      expect(job).toMatchObject({
        object: 'fine_tuning.job',
        seed: 11,
        metadata: { area: 'matrix' },
        integrations: [{ type: 'wandb', wandb: { project: 'p' } }],
        error: null,
        result_files: [],
        fine_tuned_model: null,
      });
      tuned = await until(job.id, ENDS);
    });

    it('end as a model with metrics, events and checkpoints', async () => {
      const { jobs } = m().client.fineTuning;
      expect([tuned.status, tuned.error]).toEqual(['succeeded', null]);
      expect(tuned.fine_tuned_model).toMatch(/^ft:lathe-tiny:[\w-]+:matrix:\w{8}$/);
      expect(tuned.trained_tokens).toBeGreaterThan(0);
      expect(tuned.hyperparameters).toMatchObject({
        n_epochs: 1,
        batch_size: 4,
        learning_rate_multiplier: 2,
      });
      const csv = await (await m().client.files.content(tuned.result_files[0]!)).text();
      expect(csv.split('\n')[0]).toMatch(/^step,train_loss/);
      const events: OpenAI.FineTuning.Jobs.FineTuningJobEvent[] = [];
      for await (const event of jobs.listEvents(tuned.id, { limit: 3 })) events.push(event);
      expect(events.at(-1)?.message).toContain(tuned.id);
      expect(events.some((event) => event.type === 'metrics')).toBe(true);
      expect(events.some((event) => event.level === 'warn' && /integration|wandb/i.test(event.message))).toBe(
        true,
      );
      const after = await jobs.listEvents(tuned.id, { after: events[0]!.id, limit: 1 });
      expect(after.data[0]?.id).toBe(events[1]?.id);
      const checkpoints = await jobs.checkpoints.list(tuned.id, { limit: 10 });
      expect(checkpoints.data[0]).toMatchObject({
        object: 'fine_tuning.job.checkpoint',
        fine_tuning_job_id: tuned.id,
        fine_tuned_model_checkpoint: tuned.fine_tuned_model,
      });
    });

    it('are listed by limit, after and metadata in every spelling', async () => {
      const { jobs } = m().client.fineTuning;
      const other = await create({});
      const newest = await jobs.list({ limit: 1 });
      expect(newest.data.map((job) => job.id)).toEqual([other.id]);
      expect(newest.has_more).toBe(true);
      expect((await jobs.list({ after: other.id, limit: 50 })).data.map((job) => job.id)).toContain(tuned.id);
      expect((await jobs.list({ metadata: { area: 'matrix' } })).data.map((job) => job.id)).toEqual([
        tuned.id,
      ]);
      expect((await jobs.list({ metadata: null, limit: 1 })).data.map((job) => job.id)).toEqual([other.id]);
      expect((await jobs.cancel(other.id)).status).toMatch(/cancelled|running|queued|validating_files/);
      expect((await until(other.id, ENDS)).status).toBe('cancelled');
      await expect(jobs.cancel(other.id)).rejects.toBeInstanceOf(BadRequestError);
      await expect(jobs.retrieve('ftjob-nobody')).rejects.toBeInstanceOf(NotFoundError);
    });

    it('pause, resume and end', async () => {
      const { jobs } = m().client.fineTuning;
      const job = await create({ trainer: { max_steps: 400 } } as object);
      await until(job.id, ['running']);
      await jobs.pause(job.id);
      expect((await until(job.id, ['paused', ...ENDS])).status).toBe('paused');
      expect((await jobs.resume(job.id)).status).toMatch(/queued|running/);
      await jobs.cancel(job.id);
      expect((await until(job.id, ENDS)).status).toBe('cancelled');
    });

    it('continue from a tuned model', async () => {
      const job = await create({ model: tuned.fine_tuned_model!, ...SHORT });
      const done = await until(job.id, ENDS);
      expect([done.status, done.error]).toEqual(['succeeded', null]);
      expect(done.fine_tuned_model).toMatch(/^ft:lathe-tiny:/);
    });

    it('learn preferences (dpo)', async () => {
      const job = await create({
        training_file: await upload(preferenceRows),
        method: {
          type: 'dpo',
          dpo: {
            hyperparameters: { beta: 0.2, n_epochs: 1, batch_size: 5, learning_rate_multiplier: 'auto' },
          },
        },
        ...SHORT,
      });
      const done = await until(job.id, ENDS);
      expect([done.status, done.error]).toEqual(['succeeded', null]);
      expect(done.method).toMatchObject({ type: 'dpo', dpo: { hyperparameters: { beta: 0.2 } } });
    });

    it('refuse reinforcement and unknown models by name', async () => {
      const grader = {
        type: 'string_check' as const,
        name: 'g',
        input: 'a',
        reference: 'a',
        operation: 'eq' as const,
      };
      await expect(
        create({ method: { type: 'reinforcement', reinforcement: { grader } } }),
      ).rejects.toMatchObject({
        status: 400,
        param: 'method.type',
      });
      await expect(create({ model: 'gpt-nobody' })).rejects.toMatchObject({ status: 400, param: 'model' });
    });

    it('share checkpoints with projects (admin)', async () => {
      const { permissions } = m().admin.fineTuning.checkpoints;
      const project = await m().admin.admin.organization.projects.create({ name: 'other' });
      const made = await permissions.create(tuned.fine_tuned_model!, { project_ids: [project.id] });
      const ids: string[] = [];
      for await (const each of made) ids.push(each.id);
      expect(ids).toHaveLength(1);
      const list = await permissions.list(tuned.fine_tuned_model!, {
        project_id: project.id,
        order: 'ascending',
        limit: 5,
      });
      expect(list.data.map((each) => each.project_id)).toEqual([project.id]);
      const gone = await permissions.delete(ids[0]!, {
        fine_tuned_model_checkpoint: tuned.fine_tuned_model!,
      });
      expect(gone).toEqual({ id: ids[0], object: 'checkpoint.permission', deleted: true });
    });

    it('are models: listed, retrieved, asked and deleted', async () => {
      const { client } = m();
      const ids: string[] = [];
      for await (const model of client.models.list()) ids.push(model.id);
      expect(ids).toEqual(expect.arrayContaining([MODEL, tuned.fine_tuned_model]));
      const model = await client.models.retrieve(tuned.fine_tuned_model!);
      expect(model).toMatchObject({ object: 'model', shutdown_date: null });
      const answer = await client.chat.completions.create({
        model: tuned.fine_tuned_model!,
        messages: [{ role: 'user', content: 'How many is 3 and one?' }],
        max_completion_tokens: 8,
      });
      expect(answer.model).toBe(tuned.fine_tuned_model);
      expect(await client.models.delete(tuned.fine_tuned_model!)).toMatchObject({ deleted: true });
      await expect(client.models.retrieve(tuned.fine_tuned_model!)).rejects.toMatchObject({
        code: 'model_not_found',
      });
      await expect(client.models.delete(MODEL)).rejects.toMatchObject({ status: 403 });
    });

    it('tell their end to a webhook that the SDK verifies', async () => {
      const { client, received, receiverUrl } = m();
      const endpoint = await client.webhooks.create({
        ...{ name: 'matrix', url: receiverUrl },
        event_types: ['fine_tuning.job.cancelled', 'batch.completed'],
      });
      const job = await create({ trainer: { max_steps: 400 } } as object);
      await client.fineTuning.jobs.cancel(job.id);
      await until(job.id, ENDS);
      const told = await vi.waitFor(
        () => {
          const found = received.find(({ body }) => body.includes(job.id));
          if (!found) throw new Error('not told yet');
          return found;
        },
        { timeout: 20_000, interval: 50 },
      );
      const event = await client.webhooks.unwrap(told.body, told.headers, endpoint.signing_secret);
      expect(event).toMatchObject({
        object: 'event',
        type: 'fine_tuning.job.cancelled',
        data: { id: job.id },
      });
      const listed: string[] = [];
      for await (const each of client.webhooks.list({ limit: 1 })) listed.push(each.id);
      expect(listed).toEqual([endpoint.id]);
      const tried = await client.webhooks.test(endpoint.id, { event_type: 'batch.completed' });
      expect(tried).toMatchObject({ success: true, status_code: 200 });
      const rotated = await client.webhooks.rotateSecret(endpoint.id, {
        keep_old_secret_active_for_24_hours: true,
      });
      expect(rotated.signing_secret).not.toBe(endpoint.signing_secret);
      expect((await client.webhooks.update(endpoint.id, { name: 'renamed' })).name).toBe('renamed');
      expect((await client.webhooks.retrieve(endpoint.id)).name).toBe('renamed');
      expect((await client.webhooks.eventTypes.list()).data).toContain('fine_tuning.job.succeeded');
      expect(await client.webhooks.delete(endpoint.id)).toMatchObject({ deleted: true });
    });
  });
}
