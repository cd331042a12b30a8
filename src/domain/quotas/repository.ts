/**
 * The statements about limits and quotas. Every one names the project; a project's row is the lock under which its
 * quotas are counted.
 */
import { and, asc, count, eq, inArray, isNull, or, sql, sum } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { baseModels, files, projects } from '../../db/schema.ts';
import { batches } from '../../db/schema-batches.ts';
import { chatCompletions } from '../../db/schema-chat.ts';
import { jobs } from '../../db/schema-jobs.ts';
import { rateLimitBuckets as buckets, projectRateLimits } from '../../db/schema-tenancy.ts';

export interface StoredLimit {
  model: string;
  /** A minute; null = the configured default, 0 = no limit. */
  maxRequests: number | null;
  maxTokens: number | null;
}

/** What is stored for every base model, by name. */
export async function listLimits(db: Queryable, projectId: string): Promise<StoredLimit[]> {
  return db
    .select({
      model: baseModels.id,
      maxRequests: projectRateLimits.maxRequests,
      maxTokens: projectRateLimits.maxTokens,
    })
    .from(baseModels)
    .leftJoin(
      projectRateLimits,
      and(eq(projectRateLimits.projectId, projectId), eq(projectRateLimits.model, baseModels.id)),
    )
    .orderBy(asc(baseModels.id));
}

/** Sets what is given; null leaves the stored value. */
export async function upsertLimit(db: Queryable, projectId: string, limit: StoredLimit): Promise<void> {
  const { model, maxRequests, maxTokens } = limit;
  await db
    .insert(projectRateLimits)
    .values({ projectId, model, maxRequests, maxTokens })
    .onConflictDoUpdate({
      target: [projectRateLimits.projectId, projectRateLimits.model],
      set: {
        maxRequests: sql`coalesce(excluded.max_requests, ${projectRateLimits.maxRequests})`,
        maxTokens: sql`coalesce(excluded.max_tokens, ${projectRateLimits.maxTokens})`,
      },
    });
}

export interface Bucket {
  allowed: boolean;
  /** What is left. */
  requests: number;
  tokens: number;
}

/**
 * Takes one request and `cost` tokens out of the buckets of this project and model, or nothing when either has too
 * little. They hold a minute's worth and fill continuously, by the database's clock, so all processes share them.
 */
export async function takeFromBucket(
  db: Queryable,
  projectId: string,
  model: string,
  limit: { requests: number; tokens: number },
  cost: number,
): Promise<Bucket> {
  const seconds = sql`greatest(0, extract(epoch from clock_timestamp() - ${buckets.updatedAt}))`;
  const filled = (column: typeof buckets.requests | typeof buckets.tokens, max: number) =>
    sql`least(${max}::float8, ${column} + ${seconds} * ${max / 60}::float8)`;
  const [requests, tokens] = [filled(buckets.requests, limit.requests), filled(buckets.tokens, limit.tokens)];
  const allowed = sql`(${requests} >= 1 and ${tokens} >= ${cost}::float8)`;
  const rows = await db
    .insert(buckets)
    .values({
      projectId,
      model,
      requests: limit.requests - 1,
      tokens: limit.tokens - cost,
      allowed: true,
      updatedAt: sql`clock_timestamp()`,
    })
    .onConflictDoUpdate({
      target: [buckets.projectId, buckets.model],
      set: {
        requests: sql`${requests} - case when ${allowed} then 1 else 0 end`,
        tokens: sql`${tokens} - case when ${allowed} then ${cost}::float8 else 0 end`,
        allowed,
        updatedAt: sql`clock_timestamp()`,
      },
    })
    .returning({ allowed: buckets.allowed, requests: buckets.requests, tokens: buckets.tokens });
  return rows[0]!;
}

export interface StoredQuotas {
  maxActiveJobs: number | null;
  maxFiles: number | null;
  maxStorageBytes: number | null;
}

const quotaColumns = {
  maxActiveJobs: projects.maxActiveJobs,
  maxFiles: projects.maxFiles,
  maxStorageBytes: projects.maxStorageBytes,
};

export async function findQuotas(db: Queryable, projectId: string): Promise<StoredQuotas | null> {
  const rows = await db.select(quotaColumns).from(projects).where(eq(projects.id, projectId));
  return rows[0] ?? null;
}

/** Until the transaction ends nobody else can pass here for this project. */
export async function lockProject(tx: Queryable, projectId: string): Promise<void> {
  // Not `for update`: that would wait for every insert that refers to the project.
  await tx.select({ id: projects.id }).from(projects).where(eq(projects.id, projectId)).for('no key update');
}

/** Jobs that wait or run. */
export async function countActiveJobs(db: Queryable, projectId: string): Promise<number> {
  const rows = await db
    .select({ jobs: count() })
    .from(jobs)
    .where(
      and(eq(jobs.projectId, projectId), inArray(jobs.status, ['validating_files', 'queued', 'running'])),
    );
  return rows[0]?.jobs ?? 0;
}

/** Batches that wait or run, those that are being cancelled among them: a runner still has to end them. */
export async function countOpenBatches(db: Queryable, projectId: string): Promise<number> {
  const open = ['validating', 'in_progress', 'finalizing', 'cancelling'];
  const rows = await db
    .select({ batches: count() })
    .from(batches)
    .where(and(eq(batches.projectId, projectId), inArray(batches.status, open)));
  return rows[0]?.batches ?? 0;
}

/** Number and bytes of the files a user can see. */
export async function measureFiles(
  db: Queryable,
  projectId: string,
): Promise<{ files: number; bytes: number }> {
  const rows = await db
    .select({ files: count(), bytes: sum(files.bytes).mapWith(Number) })
    .from(files)
    .where(
      and(
        eq(files.projectId, projectId),
        isNull(files.deletedAt),
        or(isNull(files.expiresAt), sql`${files.expiresAt} > clock_timestamp()`),
      ),
    );
  return { files: rows[0]?.files ?? 0, bytes: rows[0]?.bytes ?? 0 };
}

/** Bytes of the chat completions that the project keeps. */
export async function measureStoredCompletions(db: Queryable, projectId: string): Promise<number> {
  const rows = await db
    .select({ bytes: sum(chatCompletions.bytes).mapWith(Number) })
    .from(chatCompletions)
    .where(eq(chatCompletions.projectId, projectId));
  return rows[0]?.bytes ?? 0;
}

/** Bytes of the adapters that the project brought in, those that are still being checked among them. */
export async function measureImports(db: Queryable, projectId: string): Promise<number> {
  const { rows } = await db.execute<{ bytes: number }>(sql`
    select coalesce(sum((file->>'bytes')::bigint), 0)::float8 as bytes from (
      select jsonb_array_elements(m.files) as file from tuned_models m
        where m.project_id = ${projectId} and m.job_id is null and m.deleted_at is null
      union all
      select jsonb_array_elements(o.input_files) from model_operations o
        where o.project_id = ${projectId} and o.kind = 'import' and o.status in ('queued', 'running')) x`);
  return rows[0]!.bytes;
}
