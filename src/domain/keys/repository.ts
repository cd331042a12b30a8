/**
 * The statements about organizations, projects and API keys. Only hashes of secrets come in here.
 */
import { and, asc, eq, isNull, lt, or, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { apiKeys, organizations, projects } from '../../db/schema.ts';
import { serviceAccounts } from '../../db/schema-tenancy.ts';

export interface KeyRecord {
  id: string;
  /** '' for an admin key. */
  projectId: string;
  secretSha256: string;
  organization: { id: string; slug: string };
  scopes: string[];
  /** Null = the key is the project's own. */
  role: string | null;
}

export interface NewKeyRow {
  id: string;
  projectId: string;
  name: string;
  secretSha256: string;
  expiresAt: Date | null;
  scopes: string[];
  serviceAccountId: string | null;
}

export async function insertKey(db: Queryable, row: NewKeyRow) {
  const rows = await db.insert(apiKeys).values(row).returning({ createdAt: apiKeys.createdAt });
  return rows[0]!;
}

const isLive = and(
  isNull(apiKeys.revokedAt),
  or(isNull(apiKeys.expiresAt), sql`${apiKeys.expiresAt} > clock_timestamp()`),
);

/** Keys of the project that would be let in at this moment. */
export async function countLiveKeys(db: Queryable, projectId: string): Promise<number> {
  return db.$count(apiKeys, and(eq(apiKeys.projectId, projectId), isLive));
}

/**
 * The key with its project and organization, unless it is unknown, revoked, past its end by the database's clock, or its
 * project is archived.
 */
export async function findLiveKey(db: Queryable, id: string): Promise<KeyRecord | null> {
  const rows = await db
    .select({
      id: apiKeys.id,
      projectId: apiKeys.projectId,
      secretSha256: apiKeys.secretSha256,
      organization: { id: organizations.id, slug: organizations.slug },
      scopes: apiKeys.scopes,
      role: serviceAccounts.role,
    })
    .from(apiKeys)
    .innerJoin(projects, eq(projects.id, apiKeys.projectId))
    .innerJoin(organizations, eq(organizations.id, projects.organizationId))
    .leftJoin(
      serviceAccounts,
      and(eq(serviceAccounts.projectId, apiKeys.projectId), eq(serviceAccounts.id, apiKeys.serviceAccountId)),
    )
    .where(and(eq(apiKeys.id, id), isLive, isNull(projects.archivedAt)));
  return rows[0] ?? null;
}

/** Notes the use of a key, at most once a minute. */
export async function touchKey(db: Queryable, id: string): Promise<void> {
  await db
    .update(apiKeys)
    .set({ lastUsedAt: sql`clock_timestamp()` })
    .where(
      and(
        eq(apiKeys.id, id),
        or(isNull(apiKeys.lastUsedAt), lt(apiKeys.lastUsedAt, sql`clock_timestamp() - interval '1 minute'`)),
      ),
    );
}

/** Revokes a key of the project; false when the project has no such live key. */
export async function revokeKeyRow(db: Queryable, projectId: string, id: string): Promise<boolean> {
  const rows = await db
    .update(apiKeys)
    .set({ revokedAt: sql`clock_timestamp()` })
    .where(and(eq(apiKeys.projectId, projectId), eq(apiKeys.id, id), isNull(apiKeys.revokedAt)))
    .returning({ id: apiKeys.id });
  return rows.length > 0;
}

export async function listKeyRows(db: Queryable, projectId: string) {
  return db
    .select({
      id: apiKeys.id,
      name: apiKeys.name,
      createdAt: apiKeys.createdAt,
      expiresAt: apiKeys.expiresAt,
      revokedAt: apiKeys.revokedAt,
      lastUsedAt: apiKeys.lastUsedAt,
      scopes: apiKeys.scopes,
    })
    .from(apiKeys)
    .where(eq(apiKeys.projectId, projectId))
    .orderBy(asc(apiKeys.createdAt), asc(apiKeys.id));
}

export interface ProjectRecord {
  id: string;
  name: string;
  organization: { id: string; slug: string };
}

/** The oldest project in use: the one that the first start made. */
export async function findFirstProject(db: Queryable): Promise<ProjectRecord | null> {
  const rows = await db
    .select({
      id: projects.id,
      name: projects.name,
      organization: { id: organizations.id, slug: organizations.slug },
    })
    .from(projects)
    .innerJoin(organizations, eq(organizations.id, projects.organizationId))
    .where(isNull(projects.archivedAt))
    .orderBy(asc(projects.createdAt), asc(projects.id))
    .limit(1);
  return rows[0] ?? null;
}

export async function insertProject(
  db: Queryable,
  project: ProjectRecord,
  organizationName: string,
): Promise<void> {
  await db.insert(organizations).values({ ...project.organization, name: organizationName });
  await db
    .insert(projects)
    .values({ id: project.id, name: project.name, organizationId: project.organization.id });
}

/** Lets one process at a time decide whether the first project must be made; held until the transaction ends. */
export async function lockFirstStart(db: Queryable): Promise<void> {
  await db.execute(
    sql`select pg_advisory_xact_lock(hashtextextended('lathe first start ' || current_schema(), 0))`,
  );
}
