/**
 * The statement that finds who can generate. Workers serve every project; what they are sent is decided before.
 */
import { and, count, eq, isNotNull, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { workers } from '../../db/schema.ts';

/** A worker silent for longer is not asked. */
const ALIVE_SECONDS = 15;
/** One that died is missed for so long: it may be started again. */
export const REMEMBERED_SECONDS = 60;

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

/** An inference worker that was heard of lately, in whatever state. */
export interface InferenceWorker {
  url: string | null;
  isReady: boolean;
  /** Which files of the base model it holds; null when it does not say. */
  baseDigest: string | null;
}

/** The workers of a base model: those heard of within ALIVE_SECONDS, and silent ones (never ready) for a while longer. */
export async function inferenceWorkers(db: Queryable, baseModel: string): Promise<InferenceWorker[]> {
  const silent = (seconds: number) =>
    sql<boolean>`${workers.heartbeatAt} <= clock_timestamp() - make_interval(secs => ${seconds})`;
  return db
    .select({
      url: workers.url,
      baseDigest: workers.baseDigest,
      isReady: sql<boolean>`${workers.state} = 'ready' and not ${silent(ALIVE_SECONDS)}`,
    })
    .from(workers)
    .where(
      and(
        eq(workers.kind, 'inference'),
        eq(workers.baseModel, baseModel),
        sql`not ${silent(REMEMBERED_SECONDS)}`,
      ),
    );
}

/** Base models that a ready worker holds with rounded weights, and how. */
export async function liveQuantizations(db: Queryable): Promise<Map<string, string>> {
  const rows = await db
    .selectDistinct({ baseModel: workers.baseModel, quantization: workers.quantization })
    .from(workers)
    .where(
      and(
        eq(workers.kind, 'inference'),
        eq(workers.state, 'ready'),
        isNotNull(workers.quantization),
        sql`${workers.heartbeatAt} > clock_timestamp() - make_interval(secs => ${ALIVE_SECONDS})`,
      ),
    );
  return new Map(
    rows.flatMap(({ baseModel, quantization }) =>
      baseModel === null || quantization === null ? [] : [[baseModel, quantization] as const],
    ),
  );
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
