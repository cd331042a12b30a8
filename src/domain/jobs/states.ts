/**
 * The states of a fine-tuning job and the moves between them. `status` is written here and nowhere else, through the
 * SQL function lathe_transition (migrations/0004_jobs.sql), which holds the same table: terminal states absorb.
 * Knows nothing of HTTP and nothing of training.
 */
import { sql } from 'drizzle-orm';
import type { Database, Queryable } from '../../db/client.ts';
import { type Fence, insertEvents, message, retireStates } from '../../queue/sql.ts';

export const JOB_STATUSES = [
  'validating_files',
  'queued',
  'running',
  'paused',
  'succeeded',
  'failed',
  'cancelled',
] as const;
export type JobStatus = (typeof JOB_STATUSES)[number];

/** From → to. */
export const TRANSITIONS: Readonly<Record<JobStatus, readonly JobStatus[]>> = {
  validating_files: ['queued', 'paused', 'failed', 'cancelled'],
  queued: ['running', 'paused', 'failed', 'cancelled'],
  running: ['succeeded', 'paused', 'failed', 'cancelled'],
  paused: ['queued', 'cancelled'],
  succeeded: [],
  failed: [],
  cancelled: [],
};

export function isTerminal(status: JobStatus): boolean {
  return TRANSITIONS[status].length === 0;
}

/** The event that ends a cancelled job, whoever wrote it. */
export const CANCELLED_MESSAGE = 'The job was cancelled';
/** The event of a job that rests, and of one that was woken. */
const PAUSED_MESSAGE = 'Fine-tuning job paused';
const RESUMED_MESSAGE = 'Fine-tuning job resumed, moving job to queued state';

/**
 * Moves a job; the only statement that changes `status`. `fence` is the trainer's hold on the job, null for a caller
 * that holds none. @returns false when the table forbids the move or the fence is no longer current.
 */
export async function transition(
  db: Queryable,
  jobId: string,
  to: JobStatus,
  fence: Fence | null,
): Promise<boolean> {
  const { rows } = await db.execute<{ moved: boolean }>(
    sql`select lathe_transition(${jobId}, ${to}, ${fence?.epoch ?? null}::integer, ${fence?.workerId ?? null}::text) as moved`,
  );
  return rows[0]!.moved;
}

export type CancelOutcome =
  /** No trainer held the job: it is cancelled now. */
  | { outcome: 'cancelled' }
  /** A trainer holds it and stops within two seconds; `status` is what the job shows until then. */
  | { outcome: 'requested'; status: JobStatus }
  /** The job had ended before. */
  | { outcome: 'terminal'; status: JobStatus }
  | { outcome: 'not_found' };

/**
 * Cancels a job of the project: at once where no live lease stands in the way, else by a request that the holder obeys
 * at its next step. The row lock makes it one or the other, also against a claim or a publish at the same moment.
 */
export async function requestCancel(
  database: Pick<Database, 'transaction'>,
  projectId: string,
  jobId: string,
): Promise<CancelOutcome> {
  return database.transaction(async (tx) => {
    const job = await lockJob(tx, projectId, jobId);
    if (!job) return { outcome: 'not_found' };
    if (isTerminal(job.status)) return { outcome: 'terminal', status: job.status };
    await tx.execute(sql`
      update fine_tuning_jobs set cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp())
      where project_id = ${projectId} and id = ${jobId}`);
    if (job.held) return { outcome: 'requested', status: job.status };
    await cancel(tx, jobId);
    return { outcome: 'cancelled' };
  });
}

async function lockJob(tx: Queryable, projectId: string, jobId: string) {
  const { rows } = await tx.execute<{ status: JobStatus; held: boolean; cancelling: boolean }>(sql`
    select status, coalesce(lease_until > clock_timestamp(), false) as held, cancel_requested_at is not null as cancelling
    from fine_tuning_jobs where project_id = ${projectId} and id = ${jobId} for update`);
  return rows[0] ?? null;
}

export type PauseOutcome =
  /** No trainer held the job: it rests now. */
  | { outcome: 'paused' }
  /** A trainer holds it: it saves its state at the next step and rests then. */
  | { outcome: 'requested' }
  /** It rests already, has ended, or is to be cancelled. */
  | { outcome: 'refused'; status: JobStatus; cancelling: boolean }
  | { outcome: 'not_found' };

/**
 * Pauses a job of the project: at once where no live lease stands in the way (it continues from its last checkpoint),
 * else by a request that the holder obeys at its next step. Asking again while the holder saves changes nothing.
 */
export async function requestPause(
  database: Pick<Database, 'transaction'>,
  projectId: string,
  jobId: string,
): Promise<PauseOutcome> {
  return database.transaction(async (tx) => {
    const job = await lockJob(tx, projectId, jobId);
    if (!job) return { outcome: 'not_found' };
    const { status, held, cancelling } = job;
    if (cancelling || !TRANSITIONS[status].includes('paused'))
      return { outcome: 'refused', status, cancelling };
    if (!held) {
      await pause(tx, jobId, null);
      return { outcome: 'paused' };
    }
    await tx.execute(sql`
      update fine_tuning_jobs set pause_requested_at = coalesce(pause_requested_at, clock_timestamp())
      where project_id = ${projectId} and id = ${jobId}`);
    return { outcome: 'requested' };
  });
}

export type ResumeOutcome =
  | { outcome: 'queued' }
  | { outcome: 'refused'; status: JobStatus }
  | { outcome: 'not_found' };

/**
 * Puts a paused job back into the queue, with a clean record: earlier crashes and waits do not count any more. `admit`
 * throws where the project may not have another active job now.
 */
export async function requestResume(
  database: Pick<Database, 'transaction'>,
  projectId: string,
  jobId: string,
  admit: (tx: Queryable) => Promise<void> = async () => {},
): Promise<ResumeOutcome> {
  return database.transaction(async (tx) => {
    const job = await lockJob(tx, projectId, jobId);
    if (!job) return { outcome: 'not_found' };
    if (job.status !== 'paused') return { outcome: 'refused', status: job.status };
    await admit(tx);
    await insertEvents(tx, { jobId }, [message('info', RESUMED_MESSAGE)]);
    await tx.execute(sql`
      update fine_tuning_jobs set crashes = 0, run_after = clock_timestamp()
      where project_id = ${projectId} and id = ${jobId}`);
    if (!(await transition(tx, jobId, 'queued', null))) throw new Error(`job ${jobId} could not be resumed`);
    return { outcome: 'queued' };
  });
}

/** Writes the event and the state of a job that goes to rest; the caller has locked its row. @throws on a stale fence */
export async function pause(tx: Queryable, jobId: string, fence: Fence | null): Promise<void> {
  await insertEvents(tx, fence ?? { jobId }, [message('info', PAUSED_MESSAGE)]);
  if (!(await transition(tx, jobId, 'paused', fence))) throw new Error(`job ${jobId} could not be paused`);
}

/**
 * Writes the last event and the state of a job that no trainer holds; the caller has locked its row.
 * @returns storage prefixes that nothing refers to any more
 */
export async function cancel(tx: Queryable, jobId: string): Promise<string[]> {
  const retired = await retireStates(tx, jobId);
  await insertEvents(tx, { jobId }, [message('info', CANCELLED_MESSAGE)]);
  if (!(await transition(tx, jobId, 'cancelled', null)))
    throw new Error(`job ${jobId} could not be cancelled`);
  return retired;
}
