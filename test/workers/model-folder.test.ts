/** Several machines with one database: each has the base model where it has it. */
import path from 'node:path';
import { eq } from 'drizzle-orm';
import { expect, it, vi } from 'vitest';
import { baseModels } from '../../src/db/schema.ts';
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
