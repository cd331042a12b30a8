/** Statements about who holds a job: claim, renew, look for requests, lock, give back, find the expired. */
import { sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { ACTIVE, type Fence, held, json, LeaseLost, seconds } from './fence.ts';

/**
 * Takes the next job whose base model this worker has, and starts a new epoch. lathe_next_job (migrations/0004_jobs.sql)
 * chooses and locks it; `skip locked` lets claimers pass each other without waiting. Jobs whose holder vanished come back through reap, which counts the crash.
 */
export async function claimNext(
  db: Queryable,
  workerId: string,
  baseModels: readonly string[],
  leaseSeconds: number,
): Promise<Fence | null> {
  const { rows } = await db.execute<{ id: string; epoch: number }>(sql`
    update fine_tuning_jobs set epoch = epoch + 1, attempts = attempts + 1, worker_id = ${workerId},
      lease_until = clock_timestamp() + ${seconds(leaseSeconds)}
    where id = (select lathe_next_job(array(select jsonb_array_elements_text(${json(baseModels)}))))
    returning id, epoch`);
  const row = rows[0];
  return row ? { jobId: row.id, epoch: row.epoch, workerId } : null;
}

/** True while some job waits or will wait for a worker with these models: `--once` must not end yet. */
export async function hasWork(db: Queryable, baseModels: readonly string[]): Promise<boolean> {
  const { rows } = await db.execute<{ found: boolean }>(sql`
    select exists (select 1 from fine_tuning_jobs where ${ACTIVE} and worker_id is null
      and model = any (array(select jsonb_array_elements_text(${json(baseModels)})))) as found`);
  return rows[0]!.found;
}

/** What the user asked of a held job. */
export type HolderRequests = {
  cancelRequested: boolean;
  pauseRequested: boolean;
};
const REQUESTS = sql`cancel_requested_at is not null as "cancelRequested", pause_requested_at is not null as "pauseRequested"`;

/** Extends the lease. @returns what the user asked for. @throws LeaseLost */
export async function renewLease(db: Queryable, fence: Fence, leaseSeconds: number): Promise<HolderRequests> {
  const { rows } = await db.execute<HolderRequests>(sql`
    update fine_tuning_jobs set lease_until = clock_timestamp() + ${seconds(leaseSeconds)} where ${held(fence)}
    returning ${REQUESTS}`);
  if (!rows[0]) throw new LeaseLost(fence);
  return rows[0];
}

/** Reads what the user asked for without writing. @throws LeaseLost */
export async function readRequests(db: Queryable, fence: Fence): Promise<HolderRequests> {
  const { rows } = await db.execute<HolderRequests>(
    sql`select ${REQUESTS} from fine_tuning_jobs where ${held(fence)}`,
  );
  if (!rows[0]) throw new LeaseLost(fence);
  return rows[0];
}

/** Locks the held row until the transaction ends. @throws LeaseLost */
export async function lockHeld(
  tx: Queryable,
  fence: Fence,
  options: { onlyExpired?: boolean } = {},
): Promise<HolderRequests & { crashes: number }> {
  const expired = options.onlyExpired ? sql`and lease_until < clock_timestamp()` : sql``;
  const { rows } = await tx.execute<HolderRequests & { crashes: number }>(sql`
    select crashes, ${REQUESTS} from fine_tuning_jobs where ${held(fence)} ${expired} for update`);
  if (!rows[0]) throw new LeaseLost(fence);
  return rows[0];
}

/** Gives a locked job back to the queue; `crashes` stays when it is not given. Nobody knows now when it will end. */
export async function unlease(
  tx: Queryable,
  fence: Fence,
  waitSeconds: number,
  crashes?: number,
): Promise<void> {
  await tx.execute(sql`
    update fine_tuning_jobs set worker_id = null, lease_until = null, estimated_finish = null,
      crashes = coalesce(${crashes ?? null}::integer, crashes), run_after = clock_timestamp() + ${seconds(waitSeconds)} where ${held(fence)}`);
}

/** Holds whose lease ran out, oldest first. */
export async function expiredLeases(db: Queryable, limit: number): Promise<Fence[]> {
  const { rows } = await db.execute<{ id: string; epoch: number; worker_id: string }>(sql`
    select id, epoch, worker_id from fine_tuning_jobs
    where ${ACTIVE} and worker_id is not null and lease_until < clock_timestamp() order by lease_until limit ${limit}`);
  return rows.map((row) => ({ jobId: row.id, epoch: row.epoch, workerId: row.worker_id }));
}

/** Whether this fence holds the job in this state: the answer to a move whose reply was lost. */
export async function isHeldAs(db: Queryable, fence: Fence, status: string): Promise<boolean> {
  const { rows } = await db.execute(
    sql`select 1 from fine_tuning_jobs where ${held(fence)} and status = ${status}`,
  );
  return rows.length > 0;
}
