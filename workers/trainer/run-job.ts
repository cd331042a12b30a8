/**
 * The story of one job, top to bottom, as the supervisor lives it: fetch the inputs, let a child read the data and
 * train, carry its checkpoints to storage, publish. Every write is fenced; how an attempt can end otherwise is in settle.ts.
 */
import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { MIN_EXAMPLES } from '../../src/domain/jobs/methods.ts';
import { newModelTail } from '../../src/ids.ts';
import {
  advance,
  CancelRequested,
  type ClaimedJob,
  describe,
  type Fence,
  message,
  saveSettings,
} from '../../src/queue/queue.ts';
import { type Attempt, pauseAttempt, retryOf, startChild, unlessLeaving, type Worker } from './attempt.ts';
import type { TrainerChild } from './child-process.ts';
import { Failpoints } from './failpoints.ts';
import { fetchObject, StoredObjectDamaged } from './inputs.ts';
import { holdLease } from './lease.ts';
import { JobFailed } from './outcomes.ts';
import { ProgressWriter } from './progress.ts';
import { publishResult } from './publish.ts';
import { unlessAborted } from './retry.ts';
import { dataOptions, type EffectiveSettings, effectiveSettings, modelName } from './settings.ts';
import { type JobOutcome, settle } from './settle.ts';
import { chooseCheckpoint, fetchStart, openBase } from './starting-point.ts';
import { requireTokenRoom } from './token-quota.ts';
import { CheckpointUploader, removeRetired } from './uploads.ts';

/**
 * Runs one claimed job to an end: its result is published, it failed, it was cancelled, or it is back in the queue.
 * @param claimedAt performance.now() from before the claim was sent
 */
export async function runJob(worker: Worker, fence: Fence, claimedAt: number): Promise<JobOutcome> {
  const log = worker.log.child({ job_id: fence.jobId, epoch: fence.epoch });
  const stop = new AbortController();
  const cancelled = new AbortController();
  const closed = new AbortController();
  const attempt: Attempt = {
    worker,
    fence,
    log,
    scratch: path.join(worker.scratch, `${fence.jobId}-e${fence.epoch}`),
    stop,
    cancelled,
    closed,
    progress: new ProgressWriter(worker.database, fence, closed.signal, log, (error) => stop.abort(error)),
    loggingSteps: 1,
    failpoints: new Failpoints(worker.failpoints, fence.epoch),
    announced: -1,
    child: null,
    uploader: null,
  };
  const lease = holdLease(worker.database, fence, claimedAt, worker.config, log, {
    onLost: (reason) => {
      closed.abort(reason);
      stop.abort(reason);
    },
    onCancel: () => {
      const reason = new CancelRequested(`job ${fence.jobId} is to be cancelled`);
      cancelled.abort(reason);
      stop.abort(reason);
    },
    onPause: () => pauseAttempt(attempt),
  });
  stop.signal.addEventListener('abort', () => attempt.child?.kill(stop.signal.reason));
  log.info('job claimed');
  let outcome: JobOutcome;
  try {
    outcome = await unlessAborted(stop.signal, tell(attempt)).catch((error: unknown) =>
      settle(attempt, error),
    );
  } finally {
    lease.stop();
    closed.abort(new Error('the attempt is over'));
    attempt.progress.close();
    await attempt.uploader?.drained().catch(() => {}); // its failure was the attempt's; here it only has to be over
    // A download that was left behind may still open files there; what stays goes with the process's folder.
    await rm(attempt.scratch, { recursive: true, force: true, maxRetries: 3 }).catch((err: unknown) =>
      log.warn({ err }, 'working files of the attempt were left behind'),
    );
  }
  log.info({ outcome }, 'attempt ended');
  return outcome;
}

/** The story itself. Throws when it ends without a result; settle() knows what that means. */
async function tell(attempt: Attempt): Promise<JobOutcome> {
  const { worker, fence, progress, log, failpoints } = attempt;
  const { database, storage } = worker;
  const retry = retryOf(attempt);
  const job = await retry(() => describe(database, fence));
  const prefix = `projects/${job.job.projectId}/jobs/${fence.jobId}/e${fence.epoch}`;
  attempt.announced = job.job.progress?.step ?? -1;

  if (job.job.status === 'validating_files') progress.add(message('info', validatingText(job)));
  const base = await unlessLeaving(attempt, openBase(attempt, job));
  const files = await unlessLeaving(attempt, fetchDataFiles(attempt, job));
  const child = startChild(attempt);
  const { data, settings } = await readData(attempt, job, child, files);
  await declareRunning(attempt, job, settings, [
    ...data.training.warnings,
    ...(data.validation?.warnings ?? []),
  ]);

  const resume = await unlessLeaving(attempt, chooseCheckpoint(attempt));
  const startDir = resume ? null : await unlessLeaving(attempt, fetchStart(attempt, job));
  const uploader = new CheckpointUploader(
    {
      ...{ database, storage, fence, prefix, progress, log, failpoints },
      nameOf: (step) => modelName(job, newModelTail(), step),
      signal: attempt.closed.signal,
      onStored: (step) => child.send({ type: 'checkpoint_stored', step }),
    },
    resume,
  );
  attempt.uploader = uploader;
  attempt.loggingSteps = settings.plan.loggingSteps;
  child.send({
    type: 'train',
    device: worker.device,
    modelDir: worker.folderOf(job.base),
    baseModel: job.job.model,
    adapter: settings.columns.adapter,
    plan: settings.plan,
    checkpointsDir: attempt.scratch,
    resumeDir: resume?.dir ?? null,
    startDir,
  });
  const { type: _, ...started } = await child.until('started');
  await base.verify(); // what the child has read is what was looked at
  log.info(started, 'training started');
  const finished = await child.until('finished');
  await child.exited;
  await unlessLeaving(attempt, uploader.drained());
  await progress.flush();

  const checkpoint = uploader.last;
  if (checkpoint?.step !== finished.step)
    throw new Error(`there is no checkpoint of the last step, ${finished.step}`);
  const { retired } = await publishResult({
    ...{ database, storage, fence, prefix, checkpoint, retry, failpoints },
    projectId: job.job.projectId,
    modelName: modelName(job, newModelTail()),
    trainedTokens: finished.trainedTokens,
  });
  await removeRetired(storage, retired, log);
  return 'succeeded';
}

function validatingText(job: ClaimedJob): string {
  const training = `Validating training file: ${job.trainingFile.id}`;
  return job.validationFile ? `${training} and validation file: ${job.validationFile.id}` : training;
}

/** Copies the data files next to the child. @throws JobFailed when storage no longer has what was uploaded. */
async function fetchDataFiles(attempt: Attempt, job: ClaimedJob) {
  await mkdir(attempt.scratch, { recursive: true });
  const fetchOne = async (param: 'training_file' | 'validation_file', file: typeof job.trainingFile) => {
    const target = path.join(attempt.scratch, `${param}.jsonl`);
    try {
      await retryOf(attempt)(() => fetchObject(attempt.worker.storage, file.storageKey, target, file));
    } catch (error) {
      if (!(error instanceof StoredObjectDamaged)) throw error;
      const text = `The job failed because file ${file.id} can no longer be read: its content is missing or damaged.`;
      throw new JobFailed({ code: `invalid_${param}`, message: text, param });
    }
    return target;
  };
  return {
    trainingPath: await fetchOne('training_file', job.trainingFile),
    validationPath: job.validationFile ? await fetchOne('validation_file', job.validationFile) : null,
  };
}

/** Lets the child read the data, and resolves every number that depends on it. @throws JobFailed */
async function readData(
  { worker, log, failpoints }: Attempt,
  job: ClaimedJob,
  child: TrainerChild,
  files: Awaited<ReturnType<typeof fetchDataFiles>>,
) {
  child.send({
    type: 'prepare',
    modelDir: worker.folderOf(job.base),
    ...files,
    ...dataOptions(job),
    fileIds: { training_file: job.trainingFile.id, validation_file: job.validationFile?.id ?? null },
    minExamples: MIN_EXAMPLES,
    failpoints: failpoints.armed,
  });
  const data = await child.until('prepared');
  const settings = effectiveSettings(job, data.training.examples);
  log.info(
    { training: data.training, validation: data.validation, plan: settings.plan },
    'the data is valid',
  );
  // Not by the status: a job may be paused before it was validated. What has trained is not refused by a limit that was
  // lowered later.
  if (job.job.startedAt === null) {
    requireTokenRoom(worker.config.maxTrainedTokens, data.training.tokens, settings.plan);
  }
  return { data, settings };
}

/** Writes the effective numbers and walks the job to `running`, with OpenAI's events. */
async function declareRunning(
  { worker: { database }, fence, progress }: Attempt,
  job: ClaimedJob,
  settings: EffectiveSettings,
  warnings: readonly string[],
): Promise<void> {
  const { status, startedAt } = job.job;
  if (status === 'running') return;
  // Also for a job that was paused before it was validated: what is in force must be shown.
  await progress.inTurn(() => saveSettings(database, fence, settings.columns));
  if (status === 'validating_files') {
    for (const warning of warnings) progress.add(message('warn', warning));
    const text = 'Files validated, moving job to queued state';
    await progress.inTurn(() => advance(database, fence, 'queued', [message('info', text)]));
  }
  const text = startedAt ? 'Fine-tuning job continues' : 'Fine-tuning job started';
  await progress.inTurn(() => advance(database, fence, 'running', [message('info', text)]));
}
