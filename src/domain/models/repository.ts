/**
 * The statements about models. Base models are everybody's; tuned ones belong to a project, which every statement about
 * them names.
 */
import { and, asc, desc, eq, isNull, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { baseModels, workers } from '../../db/schema.ts';
import { tunedModels } from '../../db/schema-jobs.ts';
import { REMEMBERED_SECONDS } from '../chat/repository.ts';

export type BaseModelRow = typeof baseModels.$inferSelect;
export type TunedModelRow = typeof tunedModels.$inferSelect;

export function listBaseModels(db: Queryable): Promise<BaseModelRow[]> {
  return db.select().from(baseModels).orderBy(asc(baseModels.createdAt), asc(baseModels.id));
}

/**
 * The base models that somebody can use: an inference worker holds it, or a trainer can train it, and was heard of lately,
 * in whatever state. One that is configured nowhere any more keeps its row, for the tuned models that hang on it.
 */
export function listOfferedBaseModels(db: Queryable): Promise<BaseModelRow[]> {
  return db.select().from(baseModels).where(offered).orderBy(asc(baseModels.createdAt), asc(baseModels.id));
}

export async function isOffered(db: Queryable, id: string): Promise<boolean> {
  const rows = await db
    .select({ id: baseModels.id })
    .from(baseModels)
    .where(and(eq(baseModels.id, id), offered));
  return rows.length > 0;
}

/** Whether a trainer that was heard of lately has this base model. */
export async function canBeTrained(db: Queryable, id: string): Promise<boolean> {
  const rows = await db
    .select({ id: workers.id })
    .from(workers)
    .where(and(eq(workers.kind, 'trainer'), sql`${id} = any (${workers.baseModels})`, heardOf))
    .limit(1);
  return rows.length > 0;
}

const heardOf = sql`${workers.heartbeatAt} > clock_timestamp() - make_interval(secs => ${REMEMBERED_SECONDS})`;
const offered = sql`exists (select 1 from ${workers} w
  where (w.base_model = ${baseModels.id} or ${baseModels.id} = any (w.base_models))
    and w.heartbeat_at > clock_timestamp() - make_interval(secs => ${REMEMBERED_SECONDS}))`;

export async function findBaseModel(db: Queryable, id: string): Promise<BaseModelRow | null> {
  const rows = await db.select().from(baseModels).where(eq(baseModels.id, id));
  return rows[0] ?? null;
}

const live = (projectId: string, id: string) =>
  and(eq(tunedModels.projectId, projectId), eq(tunedModels.id, id), isNull(tunedModels.deletedAt));

/** What a list shows of a tuned model. */
export const listedColumns = {
  id: tunedModels.id,
  createdAt: tunedModels.createdAt,
  ownedBy: tunedModels.ownedBy,
  kind: tunedModels.kind,
  baseModel: tunedModels.baseModel,
  jobId: tunedModels.jobId,
  step: tunedModels.step,
  isCheckpoint: tunedModels.isCheckpoint,
};
export type ListedTunedModel = Pick<TunedModelRow, keyof typeof listedColumns>;

/** The project's own, newest first. */
export function listTunedModels(
  db: Queryable,
  projectId: string,
  limit: number,
): Promise<ListedTunedModel[]> {
  return db
    .select(listedColumns)
    .from(tunedModels)
    .where(and(eq(tunedModels.projectId, projectId), isNull(tunedModels.deletedAt)))
    .orderBy(desc(tunedModels.createdAt), desc(tunedModels.id))
    .limit(limit);
}

export async function findTunedModel(
  db: Queryable,
  projectId: string,
  id: string,
): Promise<TunedModelRow | null> {
  const rows = await db.select().from(tunedModels).where(live(projectId, id));
  return rows[0] ?? null;
}

/** False when the project has no such model. */
export async function markModelDeleted(db: Queryable, projectId: string, id: string): Promise<boolean> {
  const rows = await db
    .update(tunedModels)
    .set({ deletedAt: sql`clock_timestamp()` })
    .where(live(projectId, id))
    .returning({ id: tunedModels.id });
  return rows.length > 0;
}
