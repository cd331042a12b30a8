import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { eq } from 'drizzle-orm';
import { describe, expect, it, vi } from 'vitest';
import { baseModels } from '../../src/db/schema.ts';
import { BASE_MODEL, useTestService } from './service.ts';
import { copyModel } from './tiny-model.ts';
import { chatLines } from './training-lines.ts';

// Generous: every job starts a process, and the machine may be busy.
vi.setConfig({ testTimeout: 90_000, hookTimeout: 90_000 });

const service = useTestService();

describe("what is not the data's fault", () => {
  const withModel = async (id: string, change: (dir: string) => void) => {
    const dir = path.join(service.root, id);
    copyModel(service.modelDir, dir);
    change(dir);
    const [base] = await service.database.db.select().from(baseModels).where(eq(baseModels.id, BASE_MODEL));
    await service.database.db.insert(baseModels).values({ ...base!, id, location: dir });
  };

  it('a loss that is not a number fails the job, names the step and publishes nothing', async () => {
    await withModel('poisoned', (dir) => {
      const file = path.join(dir, 'model.safetensors');
      const bytes = readFileSync(file);
      const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE())).toString());
      const [start] = header['model.norm.weight'].data_offsets;
      bytes.writeFloatLE(Number.POSITIVE_INFINITY, 8 + Number(bytes.readBigUInt64LE()) + start);
      writeFileSync(file, bytes);
    });
    const view = await service.run({ training: chatLines(12), model: 'poisoned' });
    expect(view.row).toMatchObject({
      status: 'failed',
      crashes: 0,
      attempts: 1,
      fineTunedModel: null,
      error: { code: 'loss_diverged', param: null },
    });
    expect(view.row.error!.message).toMatch(
      /^Training diverged at step 1: the training loss is (NaN|Infinity)\. The step was not applied\./,
    );
    expect([view.models, view.checkpoints]).toEqual([[], []]);
  });

  it('a base model that cannot be opened fails the job, not the worker', async () => {
    await withModel('broken', (dir) => writeFileSync(path.join(dir, 'tokenizer.json'), '{'));
    const view = await service.run({ training: chatLines(12), model: 'broken' });
    expect(view.row).toMatchObject({
      status: 'failed',
      error: { code: 'base_model_invalid', param: 'model' },
    });
  });

  it('a job whose base model is not on this machine is left to others', async () => {
    const [base] = await service.database.db.select().from(baseModels).where(eq(baseModels.id, BASE_MODEL));
    await service.database.db.insert(baseModels).values({ ...base!, id: 'elsewhere', location: '/not/here' });
    const view = await service.run({ training: chatLines(12), model: 'elsewhere' });
    expect(view.row).toMatchObject({ status: 'validating_files', attempts: 0 });
    expect(existsSync('/not/here')).toBe(false);
  });

  it('too little memory fails the job with the estimate', async () => {
    const id = await service.createJob({ training: chatLines(12) });
    await service.runQueue({ memoryLimitBytes: 300_000 });
    const { row } = await service.view(id);
    expect(row).toMatchObject({ status: 'failed', error: { code: 'out_of_memory' } });
    expect(row.error!.message).toMatch(
      /did not fit into the worker's memory\. It was expected to need about \d/,
    );
  });

  it('memory that runs out in a step fails that job with the numbers; the same trainer runs the next one', async () => {
    const large = await service.createJob({
      training: chatLines(60),
      hyperparameters: { batch_size: 60, n_epochs: 1 },
      trainer: { max_tokens_per_pack: 8192 },
    });
    const small = await service.createJob({
      training: chatLines(12),
      hyperparameters: { batch_size: 1, n_epochs: 1 },
      trainer: { max_tokens_per_pack: 64, max_length: 64 },
    });
    await service.runQueue({ memoryLimitBytes: 8 * 2 ** 20 });
    const failed = await service.view(large);
    expect(failed.row).toMatchObject({ status: 'failed', attempts: 1, error: { code: 'out_of_memory' } });
    expect(failed.row.error!.message).toMatch(/expected to need about \d+ MiB/);
    expect(failed.events.map(({ message }) => message)).toContain('Fine-tuning job started');
    const numbers = failed.events.find(({ message }) => message.startsWith('Out of memory: '));
    expect(numbers?.message).toMatch(/cannot allocate \d+ bytes.*\d+ in use.*limit 8388608/);
    const next = await service.view(small);
    expect(next.row).toMatchObject({ status: 'succeeded', attempts: 1, error: null });
    expect(next.models).not.toEqual([]);
  });
});
