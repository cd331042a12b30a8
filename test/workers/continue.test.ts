/** Training on from a tuned model: its weights are the start, and a kill does not change the end. */
import { eq } from 'drizzle-orm';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { jobs } from '../../src/db/schema-jobs.ts';
import { type JobRequest, type JobView, spoil, useTestService } from './service.ts';
import { chatLines } from './training-lines.ts';

// Generous: every attempt starts a process, and the machine may be busy.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

const service = useTestService();

const REQUEST: JobRequest = {
  training: chatLines(20),
  validation: chatLines(5, 100),
  hyperparameters: { n_epochs: 2, batch_size: 4 },
  adapter: { r: 4, lora_alpha: 8, lora_dropout: 0.1 },
  trainer: { learning_rate: 0.01, save_steps: 3, max_length: 64 },
};

/** A job that starts from the model of another, as the API makes it. */
async function continued(first: JobView, request: JobRequest, step?: number): Promise<string> {
  const model = first.models.find((m) => (step === undefined ? !m.isCheckpoint : m.step === step))!;
  const id = await service.createJob(request);
  const kind = model.kind as 'adapter' | 'full';
  await service.database.db
    .update(jobs)
    .set({ startModel: model.id, start: { kind, storage_prefix: model.storagePrefix, files: model.files } })
    .where(eq(jobs.id, id));
  return id;
}
async function run(id: string, failpoints: string[] = []): Promise<JobView> {
  await service.runQueue({ failpoints });
  return service.view(id);
}
/** Loss of the untouched start on the validation file. */
const lossBefore = (view: JobView) =>
  (view.events.find((e) => e.message.startsWith('Before training'))!.data as { full_valid_loss: number })
    .full_valid_loss;
const lossAfter = (view: JobView) =>
  (view.events.findLast((e) => e.type === 'metrics')!.data as { full_valid_loss: number }).full_valid_loss;

describe.each([
  ['an adapter', REQUEST],
  [
    'a full model',
    { ...REQUEST, adapter: { peft_type: 'FULL' }, trainer: { ...REQUEST.trainer, learning_rate: 0.001 } },
  ],
] as const)('continuing from %s', (_, request) => {
  let first: JobView;
  let second: JobView;
  beforeAll(async () => {
    first = await run(await service.createJob(request));
    second = await run(await continued(first, { ...request, seed: 11 }));
  });

  it('starts where the other ended, with a fresh optimizer, and keeps the base in its name', () => {
    expect(second.row).toMatchObject({ status: 'succeeded', trainedTokens: first.row.trainedTokens });
    expect(lossBefore(second)).toBe(lossAfter(first));
    expect(lossBefore(second)).not.toBe(lossBefore(first));
    expect(second.row.fineTunedModel).toMatch(/^ft:tiny\/random:acme::[0-9A-Za-z]{8}$/);
    expect(second.models.at(-1)!.digest).not.toBe(first.models.at(-1)!.digest);
  });

  it.each(['child.step.2@1=kill', 'child.step.5@1=kill'])(
    'ends with the same bytes after %s',
    async (point) => {
      const view = await run(await continued(first, { ...request, seed: 11 }), [point]);
      expect(view.row).toMatchObject({ status: 'succeeded', attempts: 2 });
      expect(view.models.at(-1)!.files).toEqual(second.models.at(-1)!.files);
    },
  );
});

describe('the start', () => {
  it('may be a checkpoint, and dropout is the job’s own', async () => {
    const first = await run(await service.createJob(REQUEST));
    const checkpoint = first.models.find((m) => m.isCheckpoint)!;
    const request = { ...REQUEST, adapter: { ...REQUEST.adapter, lora_dropout: 0 } };
    const view = await run(await continued(first, request, checkpoint.step));
    const told = first.events.find(
      (e) => e.type === 'metrics' && (e.data as { step: number }).step === checkpoint.step,
    )!.data as { full_valid_loss: number };
    expect(lossBefore(view)).toBe(told.full_valid_loss);
    const { storagePrefix } = view.models.at(-1)!;
    expect(JSON.parse(await service.read(`${storagePrefix}/adapter_config.json`)).lora_dropout).toBe(0);
  });

  it('whose bytes are damaged fails the job by name', async () => {
    const first = await run(await service.createJob(REQUEST));
    const model = first.models.at(-1)!;
    const id = await continued(first, REQUEST);
    await spoil(service.storage, `${model.storagePrefix}/adapter_model.safetensors`);
    const { row } = await run(id);
    expect(row).toMatchObject({
      status: 'failed',
      error: { code: 'start_model_unavailable', param: 'model' },
    });
    expect(row.error!.message).toContain(model.id);
  });

  it('is kept in storage while a job that has not ended starts from it', async () => {
    const first = await service.createJob({
      ...REQUEST,
      hyperparameters: { n_epochs: 6, batch_size: 4 },
    });
    const drain = new AbortController();
    const trainer = service.startTrainer(['--failpoint', 'supervisor.step.7@1=term']);
    await trainer.exited;
    drain.abort();
    const between = await service.view(first);
    const early = between.models[0]!;
    const second = await continued(between, { ...REQUEST, trainer: { max_steps: 2 } }, early.step);
    await service.database.db.update(jobs).set({ priority: 1 }).where(eq(jobs.id, second));
    await service.runQueue(); // the first goes on, and retires the checkpoint; then the second starts from it
    expect((await service.view(first)).models.map((m) => m.id)).not.toContain(early.id);
    expect((await service.view(second)).row).toMatchObject({ status: 'succeeded', error: null });
  });
});
