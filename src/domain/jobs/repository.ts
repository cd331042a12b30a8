/**
 * The statements about jobs, their events and checkpoints, as the API needs them. Every one names the project, but the
 * count of all jobs for metrics, which shows no ids, and the jobs of archived projects, for the sweep. `status` after the insert is states.ts's.
 */
import { and, count, desc, eq, isNotNull, isNull, notInArray, type SQL, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { gatheredReads } from '../../db/gathered-reads.ts';
import { pageOf } from '../../db/page.ts';
import { projects } from '../../db/schema.ts';
import { jobCheckpoints, jobEvents, jobs } from '../../db/schema-jobs.ts';
import { insertEvents, message } from '../../queue/sql.ts';

export type JobRow = typeof jobs.$inferSelect;
export type EventRow = typeof jobEvents.$inferSelect;
export type CheckpointRow = typeof jobCheckpoints.$inferSelect;

export type NewJob = Pick<
  typeof jobs.$inferInsert,
  | 'id'
  | 'projectId'
  | 'model'
  | 'startModel'
  | 'start'
  | 'baseDigest'
  | 'trainingFile'
  | 'validationFile'
  | 'suffix'
  | 'seed'
  | 'metadata'
  | 'integrations'
  | 'method'
  | 'adapter'
  | 'trainer'
>;

/** Inserts the job in its first state with its first events; the caller holds its files in the same transaction. */
export async function insertJob(
  tx: Queryable,
  job: NewJob,
  warnings: readonly string[] = [],
): Promise<JobRow> {
  const rows = await tx
    .insert(jobs)
    .values({ ...job, status: 'validating_files' })
    .returning();
  const events = [message('info', `Created fine-tuning job: ${job.id}`)];
  if (job.integrations?.length) {
    events.push(
      message('warn', 'No tracker is configured on this server: the job runs without its integrations'),
    );
  }
  events.push(...warnings.map((text) => message('warn', text)));
  await insertEvents(tx, { jobId: job.id }, events);
  return rows[0]!;
}

const keyOf = (projectId: string, id: string) => JSON.stringify([projectId, id]);

/** Built once, and planned once per connection. */
function prepareFindJobs(db: Queryable) {
  const named = sql`(select * from unnest(${sql.placeholder('projectIds')}::text[], ${sql.placeholder('ids')}::text[]))`;
  return db
    .select()
    .from(jobs)
    .where(sql`(${jobs.projectId}, ${jobs.id}) in ${named}`)
    .prepare('lathe_find_jobs');
}

/** Asked more often than everything else together: clients poll. */
function jobReads(db: Queryable) {
  const statement = prepareFindJobs(db);
  return gatheredReads<{ projectId: string; id: string }, JobRow>(
    ({ projectId, id }) => keyOf(projectId, id),
    async (keys) => {
      const rows = await statement.execute({
        projectIds: keys.map(({ projectId }) => projectId),
        ids: keys.map(({ id }) => id),
      });
      return new Map(rows.map((row) => [keyOf(row.projectId, row.id), row]));
    },
  );
}
const reads = new WeakMap<Queryable, ReturnType<typeof jobReads>>();

/** The job as it is now, or null. The row may be shared with other readers: it is not to be changed. */
export async function findJob(db: Queryable, projectId: string, id: string): Promise<JobRow | null> {
  let read = reads.get(db);
  if (!read) {
    read = jobReads(db);
    reads.set(db, read);
  }
  return read({ projectId, id });
}

export interface JobQuery {
  limit: number;
  after?: string;
  /** Pairs a job must have; null = jobs without metadata. */
  metadata?: Record<string, string> | null;
}

/** One page, newest first. */
export async function listJobs(db: Queryable, projectId: string, query: JobQuery) {
  const conditions: SQL[] = [eq(jobs.projectId, projectId)];
  if (query.metadata === null) conditions.push(sql`coalesce(${jobs.metadata}, '{}'::jsonb) = '{}'::jsonb`);
  else if (query.metadata) conditions.push(sql`${jobs.metadata} @> ${JSON.stringify(query.metadata)}::jsonb`);
  if (query.after !== undefined) {
    conditions.push(
      sql`(${jobs.createdAt}, ${jobs.id}) < (select j.created_at, j.id from ${jobs} j where j.project_id = ${projectId} and j.id = ${query.after})`,
    );
  }
  const rows = await db
    .select()
    .from(jobs)
    .where(and(...conditions))
    .orderBy(desc(jobs.createdAt), desc(jobs.id))
    .limit(query.limit + 1);
  return pageOf(rows, query.limit);
}

export interface PartQuery {
  limit: number;
  after?: string;
}

/** One page of a job's events, newest first. */
export async function listEvents(db: Queryable, projectId: string, jobId: string, query: PartQuery) {
  const conditions: SQL[] = [eq(jobEvents.projectId, projectId), eq(jobEvents.jobId, jobId)];
  if (query.after !== undefined) {
    conditions.push(
      sql`${jobEvents.seq} < (select e.seq from ${jobEvents} e where e.project_id = ${projectId} and e.job_id = ${jobId} and e.id = ${query.after})`,
    );
  }
  const rows = await db
    .select()
    .from(jobEvents)
    .where(and(...conditions))
    .orderBy(desc(jobEvents.seq))
    .limit(query.limit + 1);
  return pageOf(rows, query.limit);
}

/** One page of the checkpoints a user may use, highest step first. */
export async function listCheckpoints(db: Queryable, projectId: string, jobId: string, query: PartQuery) {
  const conditions: SQL[] = [
    eq(jobCheckpoints.projectId, projectId),
    eq(jobCheckpoints.jobId, jobId),
    isNotNull(jobCheckpoints.modelName),
    isNull(jobCheckpoints.deletedAt),
  ];
  if (query.after !== undefined) {
    conditions.push(
      sql`(${jobCheckpoints.step}, ${jobCheckpoints.id}) < (select k.step, k.id from ${jobCheckpoints} k where k.project_id = ${projectId} and k.job_id = ${jobId} and k.id = ${query.after})`,
    );
  }
  const rows = await db
    .select()
    .from(jobCheckpoints)
    .where(and(...conditions))
    .orderBy(desc(jobCheckpoints.step), desc(jobCheckpoints.id))
    .limit(query.limit + 1);
  return pageOf(rows, query.limit);
}

/** Whether `id` is an event or checkpoint of the job, also one replaced since: cursors may outlive their rows' turn. */
export async function isPartOfJob(
  db: Queryable,
  projectId: string,
  jobId: string,
  id: string,
): Promise<boolean> {
  const events = await db
    .select({ id: jobEvents.id })
    .from(jobEvents)
    .where(and(eq(jobEvents.projectId, projectId), eq(jobEvents.jobId, jobId), eq(jobEvents.id, id)));
  if (events.length > 0) return true;
  const checkpoints = await db
    .select({ id: jobCheckpoints.id })
    .from(jobCheckpoints)
    .where(
      and(
        eq(jobCheckpoints.projectId, projectId),
        eq(jobCheckpoints.jobId, jobId),
        eq(jobCheckpoints.id, id),
      ),
    );
  return checkpoints.length > 0;
}

/** Jobs of all projects by status, and how many wait for a trainer. Figures only. */
export async function countJobs(db: Queryable) {
  const byStatus = await db.select({ status: jobs.status, count: count() }).from(jobs).groupBy(jobs.status);
  const waiting = await db
    .select({ count: count() })
    .from(jobs)
    .where(
      sql`${jobs.status} in ('validating_files', 'queued', 'running') and ${jobs.workerId} is null and ${jobs.runAfter} <= clock_timestamp()`,
    );
  return { byStatus, waiting: waiting[0]?.count ?? 0 };
}

/** Jobs of archived projects that have neither ended nor been told to: of one project, or of all (null). */
export async function jobsOfArchived(
  db: Queryable,
  projectId: string | null,
): Promise<{ id: string; projectId: string }[]> {
  return db
    .select({ id: jobs.id, projectId: jobs.projectId })
    .from(jobs)
    .innerJoin(projects, eq(projects.id, jobs.projectId))
    .where(
      and(
        isNotNull(projects.archivedAt),
        projectId === null ? undefined : eq(jobs.projectId, projectId),
        notInArray(jobs.status, ['succeeded', 'failed', 'cancelled']),
        isNull(jobs.cancelRequestedAt),
      ),
    );
}
