/**
 * What users read and write of batches. Every statement names the project; the statements of the runner, which is
 * nobody's, are in queue-repository.ts.
 */
import { and, desc, eq, inArray, type SQL, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { pageOf } from '../../db/page.ts';
import { batches } from '../../db/schema-batches.ts';

export type BatchRow = typeof batches.$inferSelect;
export type BatchStatus =
  | 'validating'
  | 'failed'
  | 'in_progress'
  | 'finalizing'
  | 'completed'
  | 'expired'
  | 'cancelling'
  | 'cancelled';

export interface NewBatch {
  id: string;
  projectId: string;
  keyId: string;
  endpoint: string;
  inputFileId: string;
  completionWindow: string;
  metadata: Record<string, string> | null;
  outputExpiresSeconds: number | null;
}

/** How long a batch may take; the only window there is. */
const WINDOW_SECONDS = 24 * 3600;

export async function insertBatch(db: Queryable, batch: NewBatch): Promise<BatchRow> {
  const now = sql`clock_timestamp()`;
  const expiresAt = sql`clock_timestamp() + make_interval(secs => ${WINDOW_SECONDS})`;
  const rows = await db
    .insert(batches)
    .values({ ...batch, status: 'validating', createdAt: now, runAfter: now, expiresAt })
    .returning();
  return rows[0]!;
}

export async function findBatch(db: Queryable, projectId: string, id: string): Promise<BatchRow | null> {
  const rows = await db
    .select()
    .from(batches)
    .where(and(eq(batches.projectId, projectId), eq(batches.id, id)));
  return rows[0] ?? null;
}

/** One page, newest first. */
export async function listBatches(
  db: Queryable,
  projectId: string,
  query: { limit: number; after?: string },
) {
  const conditions: SQL[] = [eq(batches.projectId, projectId)];
  if (query.after !== undefined) {
    const place = sql`(select b.created_at, b.id from ${batches} b where b.project_id = ${projectId} and b.id = ${query.after})`;
    conditions.push(sql`(${batches.createdAt}, ${batches.id}) < ${place}`);
  }
  const rows = await db
    .select()
    .from(batches)
    .where(and(...conditions))
    .orderBy(desc(batches.createdAt), desc(batches.id))
    .limit(query.limit + 1);
  return pageOf(rows, query.limit);
}

/** Asks for the end of a batch that has not ended; null when there is none such. */
export async function requestCancel(db: Queryable, projectId: string, id: string): Promise<BatchRow | null> {
  const rows = await db
    .update(batches)
    .set({
      status: 'cancelling',
      cancellingAt: sql`coalesce(${batches.cancellingAt}, clock_timestamp())`,
      runAfter: sql`clock_timestamp()`,
    })
    .where(
      and(
        eq(batches.projectId, projectId),
        eq(batches.id, id),
        inArray(batches.status, ['validating', 'in_progress', 'finalizing', 'cancelling']),
      ),
    )
    .returning();
  return rows[0] ?? null;
}
