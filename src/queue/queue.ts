/**
 * The job queue: claim, heartbeat, events, checkpoints, publish, fail, release, crash, reap. Every write of a holder is
 * fenced by (job, epoch, worker); zero rows is LeaseLost. Knows nothing of training and touches no file.
 */
import { and, desc, eq, isNull } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { baseModels, files, jobCheckpoints, jobs, organizations, projects } from '../db/schema.ts';
import { CANCELLED_MESSAGE, cancel as cancelUnheld, transition } from '../domain/jobs/states.ts';
import { newId } from '../ids.ts';
import * as statements from './sql.ts';
import {
  type CheckpointRow,
  type Fence,
  type JobError,
  LeaseLost,
  message,
  type NewEvent,
  type ProgressUpdate,
  type PublishedFile,
  type PublishedModel,
} from './sql.ts';

export type {
  CheckpointRow,
  Fence,
  JobError,
  NewEvent,
  ProgressUpdate,
  PublishedFile,
  PublishedModel,
} from './sql.ts';
export { LeaseLost, message, metrics } from './sql.ts';

/** The user asked to cancel before the publish was committed; the job must end as cancelled. */
export class CancelRequested extends Error {
  override name = 'CancelRequested';
}

/** How many crashes without a new checkpoint a job may have, and the wait after each. */
export interface CrashPolicy {
  crashBudget: number;
  crashBackoffSeconds: readonly number[];
}

/** Checkpoints users see, and training states kept for a resume (two: the newest may turn out damaged). */
const KEPT = { epochs: 3, states: 2 };

/** Every base model that the service offers, with its folder. */
export function listBaseModels(database: Database): Promise<{ id: string; location: string }[]> {
  return database.leases.select({ id: baseModels.id, location: baseModels.location }).from(baseModels);
}

/** Takes one job that this worker can train, or null. */
export function claim(
  database: Database,
  workerId: string,
  models: readonly string[],
  leaseSeconds: number,
): Promise<Fence | null> {
  return statements.claimNext(database.leases, workerId, models, leaseSeconds);
}

/** Whether any job waits for a worker with these models. */
export function hasWork(database: Database, models: readonly string[]): Promise<boolean> {
  return statements.hasWork(database.leases, models);
}

/** Renews the lease. @throws LeaseLost */
export function heartbeat(
  database: Database,
  fence: Fence,
  leaseSeconds: number,
): Promise<{ cancelRequested: boolean }> {
  return statements.renewLease(database.leases, fence, leaseSeconds);
}

/** Looks for a cancel request between heartbeats. @throws LeaseLost */
export function checkCancel(database: Database, fence: Fence): Promise<{ cancelRequested: boolean }> {
  return statements.readCancelRequest(database.leases, fence);
}

/** Everything the holder needs to know about its job. */
export async function describe(database: Database, fence: Fence) {
  const [row] = await database.db
    .select({ job: jobs, base: baseModels, organizationSlug: organizations.slug })
    .from(jobs)
    .innerJoin(baseModels, eq(baseModels.id, jobs.model))
    .innerJoin(projects, eq(projects.id, jobs.projectId))
    .innerJoin(organizations, eq(organizations.id, projects.organizationId))
    .where(and(eq(jobs.id, fence.jobId), eq(jobs.epoch, fence.epoch)));
  if (!row) throw new LeaseLost(fence);
  // Deleted files stay readable for the jobs that were created with them.
  const fileOf = async (id: string) => {
    const [file] = await database.db
      .select()
      .from(files)
      .where(and(eq(files.projectId, row.job.projectId), eq(files.id, id)));
    if (!file) throw new Error(`job ${fence.jobId} names file ${id}, which has no row`);
    return file;
  };
  return {
    ...row,
    trainingFile: await fileOf(row.job.trainingFile),
    validationFile: row.job.validationFile ? await fileOf(row.job.validationFile) : null,
  };
}
export type ClaimedJob = Awaited<ReturnType<typeof describe>>;

/** Live checkpoints of the job, newest first. */
export function listCheckpoints(database: Database, fence: Fence) {
  return database.db
    .select()
    .from(jobCheckpoints)
    .where(and(eq(jobCheckpoints.jobId, fence.jobId), isNull(jobCheckpoints.deletedAt)))
    .orderBy(desc(jobCheckpoints.step), desc(jobCheckpoints.createdAt));
}

/** Appends events and, in the same statement, what they say about progress. @throws LeaseLost */
export function appendEvents(
  database: Database,
  fence: Fence,
  events: readonly NewEvent[],
  update: ProgressUpdate = {},
): Promise<void> {
  return statements.insertEvents(database.db, fence, events, update);
}

/** Saves progress without an event. @throws LeaseLost */
export function saveProgress(database: Database, fence: Fence, update: ProgressUpdate): Promise<void> {
  return statements.insertEvents(database.db, fence, [], update);
}

/** Stores the values that "auto" became. @throws LeaseLost */
export function saveSettings(
  database: Database,
  fence: Fence,
  settings: { method: unknown; adapter: unknown; trainer: unknown },
): Promise<void> {
  return statements.updateSettings(database.db, fence, settings);
}

/** Moves the held job on, with the events that say so. @throws LeaseLost */
export function advance(
  database: Database,
  fence: Fence,
  to: 'queued' | 'running',
  events: readonly NewEvent[],
): Promise<void> {
  return database.transaction(async (tx) => {
    await statements.insertEvents(tx, fence, events);
    if (!(await transition(tx, fence.jobId, to, fence))) throw new LeaseLost(fence);
  });
}

/**
 * Makes an uploaded checkpoint exist, announces it if it is one that users see, and retires the ones it replaces.
 * @returns storage prefixes that nothing refers to any more. @throws LeaseLost
 */
export function recordCheckpoint(
  database: Database,
  fence: Fence,
  checkpoint: Omit<CheckpointRow, 'id'>,
): Promise<{ retired: string[] }> {
  return database.transaction(async (tx) => {
    await statements.lockHeld(tx, fence);
    const isNew = await statements.putCheckpoint(tx, fence, { ...checkpoint, id: newId('ftckpt_') });
    if (isNew && checkpoint.modelName !== null) {
      const text = `Checkpoint created at step ${checkpoint.step} with Snapshot ID: ${checkpoint.modelName}`;
      await statements.insertEvents(tx, fence, [message('info', text)]);
    }
    return { retired: await statements.retireCheckpoints(tx, fence, KEPT) };
  });
}

/** Takes a training state out of the choice: it could not be read back. @throws LeaseLost */
export function forgetCheckpoint(database: Database, fence: Fence, checkpointId: string): Promise<void> {
  return database.transaction(async (tx) => {
    await statements.lockHeld(tx, fence);
    await statements.deleteCheckpoint(tx, fence, checkpointId);
  });
}

export interface Publication {
  model: PublishedModel;
  resultFile: PublishedFile;
  trainedTokens: number;
}

/**
 * The only way to `succeeded`: model, result file, checkpoints, figures, last events and state in one transaction.
 * A repeated call after a commit whose answer was lost changes nothing and returns as the first would have.
 * @throws LeaseLost, CancelRequested
 */
export async function publish(
  database: Database,
  fence: Fence,
  result: Publication,
): Promise<{ retired: string[] }> {
  try {
    return await database.transaction(async (tx) => {
      const { cancelRequested } = await statements.lockHeld(tx, fence);
      if (cancelRequested) throw new CancelRequested(`job ${fence.jobId} is to be cancelled`);
      await statements.insertResultFile(tx, fence, result.resultFile);
      await statements.insertModel(tx, fence, result.model);
      const retired = await statements.retireCheckpoints(tx, fence, { ...KEPT, states: 0 });
      await statements.updateResult(tx, fence, {
        model: result.model.name,
        files: [result.resultFile.id],
        trainedTokens: result.trainedTokens,
      });
      await statements.insertEvents(tx, fence, [
        message('info', `New fine-tuned model created: ${result.model.name}`),
        message('info', 'The job has successfully completed'),
      ]);
      if (!(await transition(tx, fence.jobId, 'succeeded', fence))) throw new LeaseLost(fence);
      return { retired };
    });
  } catch (error) {
    if (
      error instanceof LeaseLost &&
      (await statements.isPublishedAs(database.db, fence.jobId, result.model.name))
    ) {
      return { retired: [] };
    }
    throw error;
  }
}

/** Ends the job with an error; `details` come before the event that states it. @throws LeaseLost */
export function fail(
  database: Database,
  fence: Fence,
  error: JobError,
  details: readonly NewEvent[] = [],
): Promise<void> {
  return database.transaction((tx) => failHeld(tx, fence, error, details));
}

async function failHeld(
  tx: Parameters<typeof transition>[0],
  fence: Fence,
  error: JobError,
  details: readonly NewEvent[],
): Promise<void> {
  await statements.insertEvents(tx, fence, [
    ...details,
    message('error', error.message, { code: error.code, param: error.param }),
  ]);
  await statements.updateError(tx, fence, error);
  if (!(await transition(tx, fence.jobId, 'failed', fence))) throw new LeaseLost(fence);
}

/** Ends a held job as the user asked. @throws LeaseLost */
export function cancel(database: Database, fence: Fence): Promise<void> {
  return database.transaction(async (tx) => {
    await statements.insertEvents(tx, fence, [message('info', CANCELLED_MESSAGE)]);
    if (!(await transition(tx, fence.jobId, 'cancelled', fence))) throw new LeaseLost(fence);
  });
}

/** Gives the job back at once (the worker is leaving); it counts as no crash. @throws LeaseLost */
export function release(database: Database, fence: Fence): Promise<void> {
  return database.transaction(async (tx) => {
    const { cancelRequested } = await statements.lockHeld(tx, fence);
    await statements.unlease(tx, fence, 0);
    if (cancelRequested) await cancelUnheld(tx, fence.jobId);
  });
}

/**
 * An attempt ended without a result: the job waits and is tried again, or fails when its crash budget is spent.
 * @throws LeaseLost; with `onlyExpired` also when the lease is alive after all.
 */
export function crash(
  database: Database,
  fence: Fence,
  reason: string,
  policy: CrashPolicy,
  options: { onlyExpired?: boolean } = {},
): Promise<'retried' | 'failed' | 'cancelled'> {
  return database.transaction(async (tx) => {
    const before = await statements.lockHeld(tx, fence, options);
    if (before.cancelRequested) {
      await statements.unlease(tx, fence, 0);
      await cancelUnheld(tx, fence.jobId);
      return 'cancelled';
    }
    const crashes = before.crashes + 1;
    if (crashes >= policy.crashBudget) {
      const times = crashes === 1 ? 'once' : `${crashes} times`;
      await failHeld(
        tx,
        fence,
        {
          code: 'worker_crashed',
          message: `The worker crashed ${times} without a new checkpoint. Last reason: ${reason}`,
          param: null,
        },
        [],
      );
      return 'failed';
    }
    const backoff = policy.crashBackoffSeconds;
    const wait = backoff[Math.min(crashes, backoff.length) - 1] ?? 0;
    const text = `The worker was interrupted (${reason}); the job will continue from its last checkpoint`;
    await statements.insertEvents(tx, fence, [message('warn', text, { crashes })]);
    await statements.unlease(tx, fence, wait, crashes);
    return 'retried';
  });
}

/**
 * Takes back jobs whose holder stopped renewing its lease. Any worker may call it, also several at once: each row is
 * judged in its own transaction, under its lock, by the database's clock. @returns the jobs taken back.
 */
export async function reap(
  database: Database,
  policy: CrashPolicy,
  onError: (error: unknown, fence: Fence) => void,
): Promise<Fence[]> {
  const taken: Fence[] = [];
  for (const fence of await statements.expiredLeases(database.leases, 100)) {
    try {
      await crash(database, fence, 'its worker stopped answering', policy, { onlyExpired: true });
      taken.push(fence);
    } catch (error) {
      // Renewed, ended or reaped by another in between. Any other failure concerns this row and must not hide the rest.
      if (!(error instanceof LeaseLost)) onError(error, fence);
    }
  }
  return taken;
}
