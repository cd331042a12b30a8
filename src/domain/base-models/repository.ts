/** The statements about the base models this installation offers. */
import { asc } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { baseModels } from '../../db/schema.ts';
import type { BaseModelDescription } from './describe.ts';

/** Adds the model, or brings its row up to date with the folder. */
export async function upsertBaseModel(db: Queryable, model: BaseModelDescription): Promise<void> {
  const { id, ...rest } = model;
  await db.insert(baseModels).values(model).onConflictDoUpdate({ target: baseModels.id, set: rest });
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
