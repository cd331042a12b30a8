/**
 * The statements about projects and their service accounts, as the admin API and the command line need them. Every one
 * names the organization, or the project whose organization was checked before.
 */
import { and, asc, count, eq, isNull, type SQL, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { pageOf } from '../../db/page.ts';
import { organizations, projects } from '../../db/schema.ts';
import type { serviceAccounts } from '../../db/schema-tenancy.ts';

export type ProjectRow = typeof projects.$inferSelect;
export type ServiceAccountRow = typeof serviceAccounts.$inferSelect;

export interface PageQuery {
  limit: number;
  after?: string;
}

export async function insertProjectRow(
  db: Queryable,
  row: { id: string; organizationId: string; name: string },
): Promise<ProjectRow> {
  const rows = await db.insert(projects).values(row).onConflictDoNothing().returning();
  return rows[0] ?? (await findProject(db, row.organizationId, row.id))!;
}

export async function findProject(
  db: Queryable,
  organizationId: string,
  id: string,
): Promise<ProjectRow | null> {
  const rows = await db
    .select()
    .from(projects)
    .where(and(eq(projects.organizationId, organizationId), eq(projects.id, id)));
  return rows[0] ?? null;
}

/** One page, oldest first; archived ones only when asked for. */
export async function listProjects(
  db: Queryable,
  organizationId: string,
  query: PageQuery & { includeArchived: boolean },
) {
  const conditions: SQL[] = [eq(projects.organizationId, organizationId)];
  if (!query.includeArchived) conditions.push(isNull(projects.archivedAt));
  if (query.after !== undefined) {
    conditions.push(
      sql`(${projects.createdAt}, ${projects.id}) > (select p.created_at, p.id from ${projects} p where p.organization_id = ${organizationId} and p.id = ${query.after})`,
    );
  }
  const rows = await db
    .select()
    .from(projects)
    .where(and(...conditions))
    .orderBy(asc(projects.createdAt), asc(projects.id))
    .limit(query.limit + 1);
  return pageOf(rows, query.limit);
}

export type ProjectChange = Partial<
  Pick<ProjectRow, 'name' | 'maxActiveJobs' | 'maxFiles' | 'maxStorageBytes'>
>;

/** Changes a project that is not archived; null when there is none. */
export async function updateProject(
  db: Queryable,
  organizationId: string,
  id: string,
  change: ProjectChange,
): Promise<ProjectRow | null> {
  const active = and(
    eq(projects.organizationId, organizationId),
    eq(projects.id, id),
    isNull(projects.archivedAt),
  );
  const rows = await db.update(projects).set(change).where(active).returning();
  return rows[0] ?? null;
}

/** Locks the organization's active projects and counts them, so that the last one cannot be archived twice at once. */
export async function lockActiveProjects(tx: Queryable, organizationId: string): Promise<number> {
  await tx
    .select({ id: organizations.id })
    .from(organizations)
    .where(eq(organizations.id, organizationId))
    .for('no key update');
  const rows = await tx
    .select({ active: count() })
    .from(projects)
    .where(and(eq(projects.organizationId, organizationId), isNull(projects.archivedAt)));
  return rows[0]?.active ?? 0;
}

export async function archiveProjectRow(tx: Queryable, organizationId: string, id: string) {
  const rows = await tx
    .update(projects)
    .set({ archivedAt: sql`coalesce(${projects.archivedAt}, clock_timestamp())` })
    .where(and(eq(projects.organizationId, organizationId), eq(projects.id, id)))
    .returning();
  return rows[0] ?? null;
}

export async function findOrganizationBySlug(db: Queryable, slug: string) {
  const rows = await db
    .select()
    .from(organizations)
    .where(eq(organizations.slug, slug))
    .orderBy(asc(organizations.createdAt));
  return rows[0] ?? null;
}

export async function insertOrganization(
  db: Queryable,
  row: { id: string; slug: string; name: string },
): Promise<void> {
  await db.insert(organizations).values(row);
}

/** Every project with its organization, for whoever runs the service. */
export async function listAllProjects(db: Queryable) {
  return db
    .select({
      id: projects.id,
      name: projects.name,
      createdAt: projects.createdAt,
      archivedAt: projects.archivedAt,
      organization: { id: organizations.id, slug: organizations.slug },
    })
    .from(projects)
    .innerJoin(organizations, eq(organizations.id, projects.organizationId))
    .orderBy(asc(projects.createdAt), asc(projects.id));
}
