/** A job's base model is replaced under its name: what was trained on the earlier files is not trained on with others. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { eq } from 'drizzle-orm';
import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { baseModels } from '../../src/db/schema.ts';
import { jobs } from '../../src/db/schema-jobs.ts';
import { baseDigestFolder, digestBase } from '../../workers/base-digest.ts';
import { type JobRequest, type JobView, useTestService } from './service.ts';
import { chatLines } from './training-lines.ts';

// Generous: every attempt starts a process, and the machine may be busy.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

const service = useTestService();
const REQUEST: JobRequest = {
  training: chatLines(20),
  hyperparameters: { n_epochs: 2, batch_size: 4 },
  adapter: { r: 4 },
  trainer: { learning_rate: 0.01, save_steps: 3, max_length: 64 },
};
const weights = () => path.join(service.modelDir, 'model.safetensors');
const digestHere = async () =>
  (await digestBase(service.modelDir, baseDigestFolder(service.root), () => undefined)).digest;

let first: JobView;
let before: string;
let original: Buffer;
beforeAll(async () => {
  before = await digestHere();
  original = readFileSync(weights());
  first = await service.run(REQUEST);
});
/** Other weights in the same folder, of the same shapes. */
function replaceBase(): void {
  const bytes = Buffer.from(original);
  bytes[bytes.length - 1]! ^= 1;
  writeFileSync(weights(), bytes);
}
afterEach(() => writeFileSync(weights(), original));

/** A job whose trainer died when it had done `steps`, waiting for the next one. */
async function interrupted(seed: number, steps: number): Promise<string> {
  const id = await service.createJob({ ...REQUEST, seed });
  const leave = new AbortController();
  const config = { crashBackoffSeconds: [3600] };
  const failpoints = [`child.step.${steps}=kill`];
  const running = service.runQueue({ config, failpoints, drain: leave.signal, once: false });
  const { row } = await service.waitFor(id, ({ row: { crashes, workerId } }) => crashes === 1 && !workerId);
  expect(row.baseDigest).toBe(before);
  leave.abort();
  await running;
  await service.database.db.update(jobs).set({ runAfter: new Date() }).where(eq(jobs.id, id));
  return id;
}

const CHANGED = {
  status: 'failed',
  error: {
    code: 'base_model_changed',
    message: expect.stringContaining("the files of its base model 'tiny/random' are not the ones that"),
    param: 'model',
  },
};

describe('a base model that was replaced', () => {
  it('is told from the one before by the digest that job, models and base model keep', async () => {
    expect(first.row).toMatchObject({ status: 'succeeded', baseDigest: before });
    expect(first.allModels.length).toBeGreaterThan(1);
    for (const model of first.allModels) expect(model.baseDigest).toBe(before);
    const [base] = await service.database.db.select().from(baseModels);
    expect(base!.digest).toBe(before);
  });

  it('ends a job that was interrupted, before it computes anything with the wrong weights', async () => {
    const id = await interrupted(3, 5);
    expect((await service.view(id)).checkpoints.length).toBeGreaterThan(0);
    replaceBase();
    await service.runQueue();
    const ended = await service.view(id);
    expect(ended.row).toMatchObject({ ...CHANGED, baseDigest: before });
    expect(ended.row.error!.message).toContain('this job was trained on');
    expect(ended.events.at(-1)).toMatchObject({ level: 'error', data: { code: 'base_model_changed' } });
    const told = service.log.find((line) => line.msg === 'the base model has other files');
    expect(told).toMatchObject({ job_id: id, trained_on: before, here: await digestHere() });
  });

  it('is no start for the models that were trained before, and trains new ones', async () => {
    const model = first.models.find((m) => !m.isCheckpoint)!;
    const id = await service.createJob(REQUEST);
    const start = { kind: 'adapter' as const, storage_prefix: model.storagePrefix, files: model.files };
    const change = { startModel: model.id, start, baseDigest: model.baseDigest };
    await service.database.db.update(jobs).set(change).where(eq(jobs.id, id));
    replaceBase();
    await service.runQueue();
    const ended = await service.view(id);
    expect(ended.row).toMatchObject(CHANGED);
    expect(ended.row.error!.message).toContain(model.id);
    const fresh = await service.run(REQUEST);
    expect(fresh.row).toMatchObject({ status: 'succeeded', baseDigest: await digestHere() });
    expect(fresh.row.baseDigest).not.toBe(before);
    expect(fresh.models.at(-1)!.baseDigest).toBe(fresh.row.baseDigest);
  });

  it('is nothing to a job that was interrupted before it had kept anything', async () => {
    const id = await interrupted(4, 2);
    expect((await service.view(id)).checkpoints).toEqual([]);
    replaceBase();
    const now = await digestHere();
    expect(now).not.toBe(before);
    await service.runQueue();
    const done = await service.view(id);
    expect(done.row).toMatchObject({ status: 'succeeded', attempts: 2, baseDigest: now });
    for (const model of done.allModels.filter(({ jobId }) => jobId === id))
      expect(model.baseDigest).toBe(now);
  });

  it('under the job of an earlier release, which knows no digest, is taken as it is', async () => {
    const id = await interrupted(6, 5);
    await service.database.db.update(jobs).set({ baseDigest: null }).where(eq(jobs.id, id));
    replaceBase();
    await service.runQueue();
    const done = await service.view(id);
    expect(done.row).toMatchObject({ status: 'succeeded', attempts: 2, baseDigest: await digestHere() });
    expect(done.events.map(({ message }) => message).join()).toContain('Continuing from the checkpoint');
  });
});

it('a copy of the folder on another machine is the same base model', async () => {
  const copy = path.join(service.root, 'copy');
  cpSync(service.modelDir, copy, { recursive: true });
  const id = await service.createJob({ ...REQUEST, seed: 5 });
  await service.database.db.update(jobs).set({ baseDigest: before }).where(eq(jobs.id, id));
  await service.runQueue({ config: { baseModels: [{ id: 'tiny/random', location: copy }] } });
  expect((await service.view(id)).row).toMatchObject({ status: 'succeeded', baseDigest: before });
});
