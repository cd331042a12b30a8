/**
 * The statement that finds who can generate. Workers serve every project; what they are sent is decided before.
 */
import { and, count, eq, isNotNull, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { workers } from '../../db/schema.ts';

/** A worker silent for longer is not asked. */
const ALIVE_SECONDS = 15;

/** Addresses of the workers that hold the base model and are ready, in no particular order. */
export async function liveWorkerUrls(db: Queryable, baseModel: string): Promise<string[]> {
  const rows = await db
    .select({ url: workers.url })
    .from(workers)
    .where(
      and(
        eq(workers.kind, 'inference'),
        eq(workers.baseModel, baseModel),
        eq(workers.state, 'ready'),
        isNotNull(workers.url),
        sql`${workers.heartbeatAt} > clock_timestamp() - make_interval(secs => ${ALIVE_SECONDS})`,
      ),
    );
  return rows.flatMap((row) => (row.url === null ? [] : [row.url]));
}

/** How many workers of each kind are ready and were heard of within `seconds`. */
export async function countLiveWorkers(
  db: Queryable,
  seconds: number,
): Promise<{ trainer: number; inference: number }> {
  const rows = await db
    .select({ kind: workers.kind, count: count() })
    .from(workers)
    .where(
      and(
        eq(workers.state, 'ready'),
        sql`${workers.heartbeatAt} > clock_timestamp() - make_interval(secs => ${seconds})`,
      ),
    )
    .groupBy(workers.kind);
  const of = (kind: string) => rows.find((row) => row.kind === kind)?.count ?? 0;
  return { trainer: of('trainer'), inference: of('inference') };
}
