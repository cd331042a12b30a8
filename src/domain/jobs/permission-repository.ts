/**
 * The statements about checkpoints shared between projects of one organization. A permission belongs to the project
 * that owns the model, which every statement names; the one that looks a shared model up names the project it is for.
 */
import { and, asc, desc, eq, inArray, isNull, ne, type SQL, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { pageOf } from '../../db/page.ts';
import { projects } from '../../db/schema.ts';
import { tunedModels } from '../../db/schema-jobs.ts';
import { checkpointPermissions } from '../../db/schema-webhooks.ts';
import { type ListedTunedModel, listedColumns, type TunedModelRow } from '../models/repository.ts';

export type PermissionRow = typeof checkpointPermissions.$inferSelect;

/** Who may look: one project, or (an admin key) every project of an organization. */
export type Owner = { projectId: string } | { organizationId: string };

/** A live tuned model of the owner. */
export async function findOwnedModel(db: Queryable, owner: Owner, id: string): Promise<TunedModelRow | null> {
  const rows = await db
    .select({ model: tunedModels })
    .from(tunedModels)
    .innerJoin(projects, eq(projects.id, tunedModels.projectId))
    .where(
      and(
        eq(tunedModels.id, id),
        isNull(tunedModels.deletedAt),
        'projectId' in owner
          ? eq(tunedModels.projectId, owner.projectId)
          : eq(projects.organizationId, owner.organizationId),
      ),
    );
  return rows[0]?.model ?? null;
}

/** A live model of another project that this project may use. */
export async function findSharedModel(
  db: Queryable,
  projectId: string,
  id: string,
): Promise<TunedModelRow | null> {
  const rows = await db
    .select({ model: tunedModels })
    .from(checkpointPermissions)
    .innerJoin(tunedModels, eq(tunedModels.id, checkpointPermissions.model))
    .where(
      and(
        eq(checkpointPermissions.projectId, projectId),
        eq(checkpointPermissions.model, id),
        isNull(tunedModels.deletedAt),
      ),
    );
  return rows[0]?.model ?? null;
}

/** Live models of other projects that this project may use, newest first. */
export function listSharedModels(
  db: Queryable,
  projectId: string,
  limit: number,
): Promise<ListedTunedModel[]> {
  return db
    .select(listedColumns)
    .from(checkpointPermissions)
    .innerJoin(tunedModels, eq(tunedModels.id, checkpointPermissions.model))
    .where(
      and(
        eq(checkpointPermissions.projectId, projectId),
        ne(tunedModels.projectId, projectId),
        isNull(tunedModels.deletedAt),
      ),
    )
    .orderBy(desc(tunedModels.createdAt), desc(tunedModels.id))
    .limit(limit);
}

/** Which of these projects exist in the organization. */
export async function projectsOf(
  db: Queryable,
  organizationId: string,
  ids: readonly string[],
): Promise<Set<string>> {
  const rows = await db
    .select({ id: projects.id })
    .from(projects)
    .where(
      and(
        eq(projects.organizationId, organizationId),
        inArray(projects.id, [...ids]),
        isNull(projects.archivedAt),
      ),
    );
  return new Set(rows.map(({ id }) => id));
}

/** Grants; a grant that is there already is returned as it is. */
export async function insertPermissions(db: Queryable, rows: (typeof checkpointPermissions.$inferInsert)[]) {
  return db
    .insert(checkpointPermissions)
    .values(rows)
    .onConflictDoUpdate({
      target: [checkpointPermissions.model, checkpointPermissions.projectId],
      set: { model: sql`excluded.model` },
    })
    .returning();
}

export interface PermissionQuery {
  limit: number;
  order: 'ascending' | 'descending';
  after?: string;
  project_id?: string;
}

export async function listPermissions(
  db: Queryable,
  ownerProjectId: string,
  model: string,
  query: PermissionQuery,
) {
  const newestFirst = query.order === 'descending';
  const conditions: SQL[] = [
    eq(checkpointPermissions.ownerProjectId, ownerProjectId),
    eq(checkpointPermissions.model, model),
  ];
  if (query.project_id !== undefined) conditions.push(eq(checkpointPermissions.projectId, query.project_id));
  if (query.after !== undefined) {
    const beyond = newestFirst ? sql`<` : sql`>`;
    conditions.push(
      sql`(${checkpointPermissions.createdAt}, ${checkpointPermissions.id}) ${beyond} (select c.created_at, c.id from ${checkpointPermissions} c where c.owner_project_id = ${ownerProjectId} and c.model = ${model} and c.id = ${query.after})`,
    );
  }
  const direction = newestFirst ? desc : asc;
  const rows = await db
    .select()
    .from(checkpointPermissions)
    .where(and(...conditions))
    .orderBy(direction(checkpointPermissions.createdAt), direction(checkpointPermissions.id))
    .limit(query.limit + 1);
  return pageOf(rows, query.limit);
}

/** False when the model has no such permission. */
export async function deletePermission(
  db: Queryable,
  ownerProjectId: string,
  model: string,
  id: string,
): Promise<boolean> {
  const rows = await db
    .delete(checkpointPermissions)
    .where(
      and(
        eq(checkpointPermissions.ownerProjectId, ownerProjectId),
        eq(checkpointPermissions.model, model),
        eq(checkpointPermissions.id, id),
      ),
    )
    .returning({ id: checkpointPermissions.id });
  return rows.length > 0;
}
