/**
 * Where the training of an attempt starts: the newest checkpoint of its job that can be read back, else the tuned model
 * that the job continues from, else the base model alone.
 */
import { type ClaimedJob, forgetCheckpoint, listCheckpoints, message } from '../../src/queue/queue.ts';
import { type Attempt, retryOf } from './attempt.ts';
import { fetchNewestCheckpoint, fetchStartWeights, StoredObjectDamaged } from './inputs.ts';
import { JobFailed } from './outcomes.ts';

/** The newest checkpoint that can be read back, told to the user when the job had one. */
export async function chooseCheckpoint(attempt: Attempt) {
  const { worker, fence, progress } = attempt;
  const retry = retryOf(attempt);
  const rows = await retry(() => listCheckpoints(worker.database, fence));
  const { chosen, damaged } = await retry(() => fetchNewestCheckpoint(worker.storage, rows, attempt.scratch));
  for (const { row, reason } of damaged) {
    const text = `The checkpoint of step ${row.step} could not be read back (${reason}); using an earlier one`;
    progress.add(message('warn', text, { code: 'checkpoint_corrupt', step: row.step }));
    if (row.kind === 'state') await progress.inTurn(() => forgetCheckpoint(worker.database, fence, row.id));
  }
  if (!chosen) return null;
  progress.add(message('info', `Continuing from the checkpoint of step ${chosen.row.step}`));
  return { dir: chosen.dir, step: chosen.row.step, files: chosen.row.files };
}

/** The tuned model that the job continues from, or null. @throws JobFailed when storage no longer has its files. */
export async function fetchStart(attempt: Attempt, job: ClaimedJob): Promise<string | null> {
  const { start, startModel } = job.job;
  if (!start) return null;
  try {
    const { worker, scratch } = attempt;
    return await retryOf(attempt)(() => fetchStartWeights(worker.storage, start, scratch));
  } catch (error) {
    if (!(error instanceof StoredObjectDamaged)) throw error;
    const text = `The job failed because the weights of ${startModel} can no longer be read: ${error.message}.`;
    throw new JobFailed({ code: 'start_model_unavailable', message: text, param: 'model' });
  }
}
