/** Several machines with one database: each has the base model where it has it. */
import path from 'node:path';
import { eq } from 'drizzle-orm';
import { expect, it, vi } from 'vitest';
import type { Config } from '../../src/config.ts';
import { baseModels, workers } from '../../src/db/schema.ts';
import { BASE_MODEL, useTestService } from './service.ts';
import { chatLines } from './training-lines.ts';

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 }); // every attempt starts a process

const service = useTestService();

it('a trainer uses its own folder of a base model that another machine registered elsewhere', async () => {
  const elsewhere = path.join(service.root, 'only-on-the-other-machine');
  await service.database.db
    .update(baseModels)
    .set({ location: elsewhere })
    .where(eq(baseModels.id, BASE_MODEL));
  const id = await service.createJob({
    training: chatLines(20),
    hyperparameters: { n_epochs: 1, batch_size: 4 },
    trainer: { max_steps: 2, max_length: 64 },
  });
  await service.runQueue(); // has it neither there nor anywhere else: the job waits
  expect((await service.view(id)).row).toMatchObject({ status: 'validating_files', attempts: 0 });
  await service.runQueue({ config: { baseModels: [{ id: BASE_MODEL, location: service.modelDir }] } });
  expect((await service.view(id)).row).toMatchObject({ status: 'succeeded', attempts: 1 });
});

it('a trainer says what it can train, and trains only what is configured where anything is', async () => {
  await service.database.db
    .update(baseModels)
    .set({ location: service.modelDir })
    .where(eq(baseModels.id, BASE_MODEL));
  const saidBy = async (config: Partial<Config>) => {
    const leave = new AbortController();
    const running = service.runQueue({ config, drain: leave.signal, once: false });
    const rows = await vi.waitFor(async () => {
      const found = await service.database.db.select().from(workers);
      if (found.length === 0) throw new Error('no trainer is there');
      return found;
    });
    leave.abort();
    await running;
    return rows.map((row) => row.baseModels);
  };
  expect(await saidBy({})).toEqual([[BASE_MODEL]]);
  const id = await service.createJob({ training: chatLines(12) });
  const other = { baseModels: [{ id: 'another', location: service.modelDir }] };
  expect(await saidBy(other)).toEqual([[]]); // nobody has registered it, and the registered one is not configured
  await service.runQueue({ config: other });
  expect((await service.view(id)).row).toMatchObject({ status: 'validating_files', attempts: 0 });
});
