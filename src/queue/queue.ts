/**
 * Who holds a job: claim, heartbeat, release, crash, reap. A hold is one claim of one worker (its fence); every write
 * carries it, and zero rows is LeaseLost. What a holder writes about its job is in results.ts.
 */
import { and, eq } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { baseModels, files, organizations, projects } from '../db/schema.ts';
import { jobs } from '../db/schema-jobs.ts';
import { cancel as cancelUnheld, pause as pauseUnheld } from '../domain/jobs/states.ts';
import { failHeld } from './results.ts';
import * as statements from './sql.ts';
import { type Fence, type HolderRequests, LeaseLost, message } from './sql.ts';

export * from './results.ts';
export type {
  CheckpointRow,
  Fence,
  HolderRequests,
  JobError,
  NewEvent,
  ProgressUpdate,
  PublishedFile,
  PublishedModel,
} from './sql.ts';
export { LeaseLost, message, metrics } from './sql.ts';

/** How many crashes without a new checkpoint a job may have, and the wait after each. */
export interface CrashPolicy {
  crashBudget: number;
  crashBackoffSeconds: readonly number[];
}

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
export function heartbeat(database: Database, fence: Fence, leaseSeconds: number): Promise<HolderRequests> {
  return statements.renewLease(database.leases, fence, leaseSeconds);
}

/** Looks for requests to cancel or pause between heartbeats. @throws LeaseLost */
export function checkRequests(database: Database, fence: Fence): Promise<HolderRequests> {
  return statements.readRequests(database.leases, fence);
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

/**
 * Gives the job back at once (the worker is leaving); it counts as no crash. One that is to be cancelled ends, one that
 * is to be paused rests.
 * @returns storage prefixes that nothing refers to any more. @throws LeaseLost
 */
export function release(database: Database, fence: Fence): Promise<{ retired: string[] }> {
  return database.transaction(async (tx) => {
    const { cancelRequested, pauseRequested } = await statements.lockHeld(tx, fence);
    await statements.unlease(tx, fence, 0);
    if (cancelRequested) return { retired: await cancelUnheld(tx, fence.jobId) };
    if (pauseRequested) await pauseUnheld(tx, fence.jobId, null);
    return { retired: [] };
  });
}

/** How a crash ended, and the storage prefixes that nothing refers to any more. */
export interface CrashEnd {
  outcome: 'retried' | 'failed' | 'cancelled' | 'paused';
  retired: string[];
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
): Promise<CrashEnd> {
  return database.transaction(async (tx) => {
    const before = await statements.lockHeld(tx, fence, options);
    if (before.cancelRequested) {
      await statements.unlease(tx, fence, 0);
      return { outcome: 'cancelled', retired: await cancelUnheld(tx, fence.jobId) };
    }
    if (before.pauseRequested) {
      // It rests as asked, and continues from its last checkpoint: nothing of the result is lost.
      await statements.unlease(tx, fence, 0);
      await pauseUnheld(tx, fence.jobId, null);
      return { outcome: 'paused', retired: [] };
    }
    const crashes = before.crashes + 1;
    if (crashes >= policy.crashBudget) {
      const times = crashes === 1 ? 'once' : `${crashes} times`;
      const retired = await failHeld(
        tx,
        fence,
        {
          code: 'worker_crashed',
          message: `The worker crashed ${times} without a new checkpoint. Last reason: ${reason}`,
          param: null,
        },
        [],
      );
      return { outcome: 'failed', retired };
    }
    const backoff = policy.crashBackoffSeconds;
    const wait = backoff[Math.min(crashes, backoff.length) - 1] ?? 0;
    const text = `The worker was interrupted (${reason}); the job will continue from its last checkpoint`;
    await statements.insertEvents(tx, fence, [message('warn', text, { crashes })]);
    await statements.unlease(tx, fence, wait, crashes);
    return { outcome: 'retried', retired: [] };
  });
}

/**
 * Takes back jobs whose holder stopped renewing its lease. Any worker may call it, also several at once: each row is
 * judged in its own transaction, under its lock, by the database's clock. @returns the jobs taken back, each with the
 * storage prefixes that nothing refers to any more.
 */
export async function reap(
  database: Database,
  policy: CrashPolicy,
  onError: (error: unknown, fence: Fence) => void,
): Promise<(Fence & { retired: string[] })[]> {
  const taken: (Fence & { retired: string[] })[] = [];
  for (const fence of await statements.expiredLeases(database.leases, 100)) {
    try {
      const reason = 'its worker stopped answering';
      const { retired } = await crash(database, fence, reason, policy, { onlyExpired: true });
      taken.push({ ...fence, retired });
    } catch (error) {
      // Renewed, ended or reaped by another in between. Any other failure concerns this row and must not hide the rest.
      if (!(error instanceof LeaseLost)) onError(error, fence);
    }
  }
  return taken;
}
