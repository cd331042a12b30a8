/**
 * What the holder of a job writes about it: events, settings, state, checkpoints, and its end. Every write is fenced by
 * (job, epoch, worker); zero rows is LeaseLost. Knows nothing of training and touches no file.
 */
import { and, desc, eq, isNull } from 'drizzle-orm';
import type { Database, Queryable } from '../db/client.ts';
import { jobCheckpoints } from '../db/schema-jobs.ts';
import { CANCELLED_MESSAGE, pause as pauseJob, transition } from '../domain/jobs/states.ts';
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

/** The user asked to cancel before the publish was committed; the job must end as cancelled. */
export class CancelRequested extends Error {
  override name = 'CancelRequested';
}

/** Checkpoints users see, and training states kept for a resume (two: the newest may turn out damaged). */
const KEPT = { epochs: 3, states: 2 };

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

/** Stores the values that "auto" became. @throws LeaseLost */
export function saveSettings(
  database: Database,
  fence: Fence,
  settings: { method: unknown; adapter: unknown; trainer: unknown },
): Promise<void> {
  return statements.updateSettings(database.db, fence, settings);
}

/** Notes which files of the base model the job trains on, instead of those noted before. @throws LeaseLost */
export function saveBaseDigest(database: Database, fence: Fence, digest: string): Promise<void> {
  return statements.updateBaseDigest(database.db, fence, digest);
}

/**
 * Moves the held job on, with the events that say so. A repeated call after a commit whose answer was lost changes
 * nothing. @throws LeaseLost
 */
export async function advance(
  database: Database,
  fence: Fence,
  to: 'queued' | 'running',
  events: readonly NewEvent[],
): Promise<void> {
  try {
    await database.transaction(async (tx) => {
      await statements.insertEvents(tx, fence, events);
      if (!(await transition(tx, fence.jobId, to, fence))) throw new LeaseLost(fence);
    });
  } catch (error) {
    // Asked after the rollback, which took the second copy of the events with it.
    if (!(error instanceof LeaseLost && (await statements.isHeldAs(database.db, fence, to)))) throw error;
  }
}

/**
 * Makes an uploaded checkpoint exist, announces it and offers it as a model if it is one that users see, and retires
 * the ones it replaces.
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
    const retired = await statements.retireCheckpoints(tx, fence, KEPT);
    await statements.offerCheckpoints(tx, fence);
    return { retired };
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

/**
 * Ends the job with an error; `details` come before the event that states it. Announced checkpoints stay.
 * @returns storage prefixes that nothing refers to any more. @throws LeaseLost
 */
export function fail(
  database: Database,
  fence: Fence,
  error: JobError,
  details: readonly NewEvent[] = [],
): Promise<{ retired: string[] }> {
  return database.transaction(async (tx) => {
    await statements.lockHeld(tx, fence);
    return { retired: await failHeld(tx, fence, error, details) };
  });
}

/** The writes of a failure, in the caller's transaction. @returns as fail(). @throws LeaseLost */
export async function failHeld(
  tx: Queryable,
  fence: Fence,
  error: JobError,
  details: readonly NewEvent[],
): Promise<string[]> {
  const retired = await statements.retireStates(tx, fence.jobId);
  await statements.insertEvents(tx, fence, [
    ...details,
    message('error', error.message, { code: error.code, param: error.param }),
  ]);
  await statements.updateError(tx, fence, error);
  if (!(await transition(tx, fence.jobId, 'failed', fence))) throw new LeaseLost(fence);
  return retired;
}

/**
 * Ends a held job as the user asked. Announced checkpoints stay.
 * @returns storage prefixes that nothing refers to any more. @throws LeaseLost
 */
export function cancel(database: Database, fence: Fence): Promise<{ retired: string[] }> {
  return database.transaction(async (tx) => {
    await statements.lockHeld(tx, fence);
    const retired = await statements.retireStates(tx, fence.jobId);
    await statements.insertEvents(tx, fence, [message('info', CANCELLED_MESSAGE)]);
    if (!(await transition(tx, fence.jobId, 'cancelled', fence))) throw new LeaseLost(fence);
    return { retired };
  });
}

/**
 * Puts a held job to rest as the user asked; its newest checkpoint is where it continues.
 * @throws LeaseLost, CancelRequested when the user has asked to cancel since
 */
export function pause(database: Database, fence: Fence): Promise<void> {
  return database.transaction(async (tx) => {
    const { cancelRequested } = await statements.lockHeld(tx, fence);
    if (cancelRequested) throw new CancelRequested(`job ${fence.jobId} is to be cancelled`);
    await pauseJob(tx, fence.jobId, fence);
  });
}
