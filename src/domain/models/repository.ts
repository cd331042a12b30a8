/**
 * The statements about models. Base models are everybody's; tuned ones belong to a project, which every statement about
 * them names.
 */
import { and, asc, desc, eq, isNull, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { baseModels } from '../../db/schema.ts';
import { tunedModels } from '../../db/schema-jobs.ts';

export type BaseModelRow = typeof baseModels.$inferSelect;
export type TunedModelRow = typeof tunedModels.$inferSelect;

export function listBaseModels(db: Queryable): Promise<BaseModelRow[]> {
  return db.select().from(baseModels).orderBy(asc(baseModels.createdAt), asc(baseModels.id));
}

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
