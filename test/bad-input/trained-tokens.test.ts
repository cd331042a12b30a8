/** A job whose data would train on more tokens than the operator allows fails before it trains. Real trainer. */
import { eq } from 'drizzle-orm';
import { expect, it } from 'vitest';
import { jobs } from '../../src/db/schema-jobs.ts';
import { useTestService } from '../workers/service.ts';
import { chatLines } from '../workers/training-lines.ts';

const service = useTestService();

it('J58 more tokens after all epochs than a job may train on', { timeout: 60_000 }, async () => {
  const run = async (maxTrainedTokens: number, status = 'validating_files') => {
    const hyperparameters = { n_epochs: 2, batch_size: 5 };
    const id = await service.createJob({ training: chatLines(10), hyperparameters });
    await service.database.db.update(jobs).set({ status }).where(eq(jobs.id, id));
    await service.runQueue({ config: { maxTrainedTokens } });
    return service.view(id);
  };
  const free = await run(0);
  expect(free.row.status).toBe('succeeded');
  const tokens = free.row.trainedTokens!;
  expect((await run(tokens)).row.status).toBe('succeeded');
  const refused = await run(tokens - 1);
  expect(refused.row).toMatchObject({ status: 'failed', startedAt: null, fineTunedModel: null });
  expect(refused.row.error).toEqual({
    code: 'token_quota_exceeded',
    message: `The training file has ${tokens / 2} tokens; 4 steps would train on ${tokens}, and the limit of a job is ${tokens - 1}. Lower n_epochs or shorten the file.`,
    param: 'training_file',
  });
  expect(refused.models).toEqual([]);
  // As after a pause that came before the files were read.
  expect((await run(tokens - 1, 'queued')).row.error?.code).toBe('token_quota_exceeded');
});
