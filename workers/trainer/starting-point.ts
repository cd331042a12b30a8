/**
 * Where the training of an attempt starts: the newest checkpoint of its job that can be read back, else the tuned model
 * that the job continues from, else the base model alone; and whether the base model is the one that these belong to.
 */
import { noteBaseDigest } from '../../src/domain/base-models/repository.ts';
import { BASE_MODEL_CHANGED } from '../../src/errors.ts';
import {
  type ClaimedJob,
  forgetCheckpoint,
  listCheckpoints,
  message,
  saveBaseDigest,
} from '../../src/queue/queue.ts';
import { type BaseFiles, baseDigestFolder, digestBase } from '../base-digest.ts';
import { type Attempt, retryOf } from './attempt.ts';
import { fetchNewestCheckpoint, fetchStartWeights, StoredObjectDamaged } from './inputs.ts';
import { JobFailed } from './outcomes.ts';

/**
 * Looks which files of the base model lie here and notes them with the job. @throws JobFailed when the job has weights
 * that were trained on other ones, or continues a model that was: going on would end in weights that fit neither.
 */
export async function openBase(attempt: Attempt, job: ClaimedJob): Promise<BaseFiles> {
  const { worker, fence, log, progress, closed } = attempt;
  const { id } = job.base;
  const { baseDigest: trainedOn } = job.job;
  const base = await digestBase(
    worker.folderOf(job.base),
    baseDigestFolder(worker.config.home),
    (err) => log.warn({ err }, 'the digest of the base model could not be remembered'),
    closed.signal,
  );
  log.info({ model: id, digest: base.digest, hashed_bytes: base.hashedBytes }, 'base model looked at');
  if (trainedOn !== null && trainedOn !== base.digest && (await hasLearned(attempt, job))) {
    log.error({ model: id, trained_on: trainedOn, here: base.digest }, 'the base model has other files');
    const of = job.job.startModel === null ? 'this job' : `this job or ${job.job.startModel}`;
    const text = `The job failed because the files of its base model '${id}' are not the ones that ${of} was trained on.`;
    throw new JobFailed({ code: BASE_MODEL_CHANGED, message: text, param: 'model' });
  }
  if (trainedOn !== base.digest)
    await progress.inTurn(() => saveBaseDigest(worker.database, fence, base.digest));
  await retryOf(attempt)(() => noteBaseDigest(worker.database.db, id, base.digest));
  return base;
}

/** Whether there are weights that go with the files noted before: a job that lost all its steps begins anew with any. */
async function hasLearned(attempt: Attempt, { job }: ClaimedJob): Promise<boolean> {
  if (job.startModel !== null) return true;
  const { worker, fence } = attempt;
  return (await retryOf(attempt)(() => listCheckpoints(worker.database, fence))).length > 0;
}

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
