/**
 * The fence of a hold, and the condition that every statement of a holder carries. A row that does not match is a lost
 * lease, which callers see as LeaseLost and never retry.
 */
import { type SQL, sql } from 'drizzle-orm';

/** A trainer's hold on a job: valid for one claim of one worker. */
export interface Fence {
  jobId: string;
  epoch: number;
  workerId: string;
}

/** Another attempt holds the job, or the job has ended. Final: the attempt stops its child and drops its scratch. */
export class LeaseLost extends Error {
  override name = 'LeaseLost';
  constructor(fence: Fence) {
    super(`worker ${fence.workerId} no longer holds job ${fence.jobId} (epoch ${fence.epoch})`);
  }
}

export const ACTIVE = sql`status in ('validating_files', 'queued', 'running')`;

/** True on the one row that this fence holds. */
export const held = (fence: Fence): SQL =>
  sql`id = ${fence.jobId} and epoch = ${fence.epoch} and worker_id = ${fence.workerId} and ${ACTIVE}`;

export const seconds = (value: number): SQL => sql`make_interval(secs => ${value}::double precision)`;
export const json = (value: unknown): SQL => sql`${JSON.stringify(value)}::jsonb`;
