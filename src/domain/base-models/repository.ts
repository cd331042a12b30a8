/** The statements about the base models this installation offers. */
import { asc, eq } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { baseModels } from '../../db/schema.ts';
import type { BaseModelDescription } from './describe.ts';

/** Adds the model, or brings its row up to date with the folder. */
export async function upsertBaseModel(db: Queryable, model: BaseModelDescription): Promise<void> {
  const { id, ...rest } = model;
  await db.insert(baseModels).values(model).onConflictDoUpdate({ target: baseModels.id, set: rest });
}

/** Notes which files a worker has opened as this model. @returns what was noted before; null when nothing was */
export async function noteBaseDigest(db: Queryable, id: string, digest: string): Promise<string | null> {
  const rows = await db.select({ digest: baseModels.digest }).from(baseModels).where(eq(baseModels.id, id));
  const before = rows[0]?.digest ?? null;
  if (before !== digest) await db.update(baseModels).set({ digest }).where(eq(baseModels.id, id));
  return before;
}

export async function listBaseModels(db: Queryable) {
  return db
    .select({
      id: baseModels.id,
      location: baseModels.location,
      family: baseModels.family,
      parameterCount: baseModels.parameterCount,
      contextLength: baseModels.contextLength,
    })
    .from(baseModels)
    .orderBy(asc(baseModels.id));
}
