/**
 * The statements about events that followers of a job need: heads of many jobs at once, and what is new in each. All of
 * them read by (project, job).
 */
import { and, asc, eq, gt, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { jobEvents } from '../../db/schema-jobs.ts';
import type { JobStatus } from './states.ts';

export type EventRow = typeof jobEvents.$inferSelect;

/** A job that is followed, and the last event known of it. */
export interface Watched {
  jobId: string;
  projectId: string;
  seq: number;
}

export interface JobHead {
  id: string;
  status: JobStatus;
  /** `seq` of the job's newest event. */
  eventSeq: number;
}

/** Events read of one job in one round; the rest comes with the next. */
const ROUND_LIMIT = 500;

const list = (watched: readonly Watched[]) =>
  sql`jsonb_to_recordset(${JSON.stringify(
    watched.map((each) => ({ job_id: each.jobId, project_id: each.projectId, seq: each.seq })),
  )}::jsonb) as w(job_id text, project_id text, seq bigint)`;

/** Status and newest event of each job, read at one moment. */
export async function readHeads(db: Queryable, watched: readonly Watched[]): Promise<JobHead[]> {
  const { rows } = await db.execute<{ id: string; status: JobStatus; event_seq: string }>(sql`
    select j.id, j.status, j.event_seq from ${list(watched)}
    join fine_tuning_jobs j on j.project_id = w.project_id and j.id = w.job_id`);
  return rows.map((row) => ({ id: row.id, status: row.status, eventSeq: Number(row.event_seq) }));
}

/** What came after `seq` in each job, in order, job by job. */
export async function newEvents(db: Queryable, watched: readonly Watched[]): Promise<EventRow[]> {
  const { rows } = await db.execute<Record<string, unknown> & { seq: string; created_ms: string }>(sql`
    select e.id, w.project_id, w.job_id, e.seq, e.level, e.type, e.message, e.data,
      extract(epoch from e.created_at) * 1000 as created_ms
    from ${list(watched)} cross join lateral (
      select * from fine_tuning_job_events e
      where e.project_id = w.project_id and e.job_id = w.job_id and e.seq > w.seq
      order by e.seq limit ${ROUND_LIMIT}) e
    order by w.job_id, e.seq`);
  return rows.map((row) => ({
    id: row.id as string,
    projectId: row.project_id as string,
    jobId: row.job_id as string,
    seq: Number(row.seq),
    level: row.level as string,
    type: row.type as string,
    message: row.message as string,
    data: row.data as Record<string, unknown>,
    createdAt: new Date(Number(row.created_ms)),
  }));
}

/** The next events of one job, oldest first. */
export function eventsAfter(
  db: Queryable,
  projectId: string,
  jobId: string,
  seq: number,
  limit: number,
): Promise<EventRow[]> {
  return db
    .select()
    .from(jobEvents)
    .where(and(eq(jobEvents.projectId, projectId), eq(jobEvents.jobId, jobId), gt(jobEvents.seq, seq)))
    .orderBy(asc(jobEvents.seq))
    .limit(limit);
}

/** The place of an event in its job, or null when the job has no such event. */
export async function seqOfEvent(
  db: Queryable,
  projectId: string,
  jobId: string,
  id: string,
): Promise<number | null> {
  const rows = await db
    .select({ seq: jobEvents.seq })
    .from(jobEvents)
    .where(and(eq(jobEvents.projectId, projectId), eq(jobEvents.jobId, jobId), eq(jobEvents.id, id)));
  return rows[0]?.seq ?? null;
}
