/**
 * The states of a fine-tuning job and the moves between them. `status` is written here and nowhere else, through the
 * SQL function lathe_transition (migrations/0001_job_states.sql), which holds the same table: terminal states absorb.
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

/** From → to. `paused` is reserved: no verb leads there yet. */
export const TRANSITIONS: Readonly<Record<JobStatus, readonly JobStatus[]>> = {
  validating_files: ['queued', 'failed', 'cancelled'],
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
    const { rows } = await tx.execute<{ status: JobStatus; held: boolean }>(sql`
      select status, coalesce(lease_until > clock_timestamp(), false) as held
      from fine_tuning_jobs where project_id = ${projectId} and id = ${jobId} for update`);
    const job = rows[0];
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
