/**
 * The statements about service accounts and the keys of a project. Every one names the project.
 */
import { and, asc, eq, isNull, type SQL, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { pageOf } from '../../db/page.ts';
import { apiKeys } from '../../db/schema.ts';
import { serviceAccounts as accounts } from '../../db/schema-tenancy.ts';
import type { Role } from '../keys/scopes.ts';
import type { PageQuery, ServiceAccountRow } from './repository.ts';

const alive = (projectId: string) => and(eq(accounts.projectId, projectId), isNull(accounts.deletedAt));

export async function insertAccount(
  db: Queryable,
  row: { id: string; projectId: string; name: string; role: Role },
): Promise<ServiceAccountRow> {
  const rows = await db.insert(accounts).values(row).returning();
  return rows[0]!;
}

export async function findAccount(
  db: Queryable,
  projectId: string,
  id: string,
): Promise<ServiceAccountRow | null> {
  const rows = await db
    .select()
    .from(accounts)
    .where(and(alive(projectId), eq(accounts.id, id)));
  return rows[0] ?? null;
}

/** One page, oldest first. */
export async function listAccounts(db: Queryable, projectId: string, query: PageQuery) {
  const here = sql`(${accounts.createdAt}, ${accounts.id})`;
  const place = sql`(select a.created_at, a.id from ${accounts} a where a.project_id = ${projectId} and a.id = ${query.after ?? ''})`;
  const rows = await db
    .select()
    .from(accounts)
    .where(and(alive(projectId), query.after === undefined ? undefined : sql`${here} > ${place}`))
    .orderBy(asc(accounts.createdAt), asc(accounts.id))
    .limit(query.limit + 1);
  return pageOf(rows, query.limit);
}

export async function updateAccount(
  db: Queryable,
  projectId: string,
  id: string,
  change: { name?: string; role?: Role },
): Promise<ServiceAccountRow | null> {
  const rows = await db
    .update(accounts)
    .set(change)
    .where(and(alive(projectId), eq(accounts.id, id)))
    .returning();
  return rows[0] ?? null;
}

/** Deletes the account and revokes its keys; false when there is none. */
export async function deleteAccountRow(tx: Queryable, projectId: string, id: string): Promise<boolean> {
  const now = sql`clock_timestamp()`;
  const rows = await tx
    .update(accounts)
    .set({ deletedAt: now })
    .where(and(alive(projectId), eq(accounts.id, id)))
    .returning({ id: accounts.id });
  await tx
    .update(apiKeys)
    .set({ revokedAt: now })
    .where(
      and(eq(apiKeys.projectId, projectId), eq(apiKeys.serviceAccountId, id), isNull(apiKeys.revokedAt)),
    );
  return rows.length > 0;
}

const keyColumns = {
  id: apiKeys.id,
  name: apiKeys.name,
  scopes: apiKeys.scopes,
  createdAt: apiKeys.createdAt,
  expiresAt: apiKeys.expiresAt,
  lastUsedAt: apiKeys.lastUsedAt,
  account: { id: accounts.id, name: accounts.name, role: accounts.role, createdAt: accounts.createdAt },
};

/** A key of the project that has not been revoked, with the account it belongs to (null: the project's own). */
export type ProjectKeyRow = Awaited<ReturnType<typeof selectKeys>>[number];

function selectKeys(db: Queryable, conditions: (SQL | undefined)[], limit: number) {
  return db
    .select(keyColumns)
    .from(apiKeys)
    .leftJoin(
      accounts,
      and(eq(accounts.projectId, apiKeys.projectId), eq(accounts.id, apiKeys.serviceAccountId)),
    )
    .where(and(...conditions))
    .orderBy(asc(apiKeys.createdAt), asc(apiKeys.id))
    .limit(limit);
}

const unrevoked = (projectId: string) => [eq(apiKeys.projectId, projectId), isNull(apiKeys.revokedAt)];

export async function findProjectKey(
  db: Queryable,
  projectId: string,
  id: string,
): Promise<ProjectKeyRow | null> {
  return (await selectKeys(db, [...unrevoked(projectId), eq(apiKeys.id, id)], 1))[0] ?? null;
}

/** One page, oldest first. */
export async function listProjectKeys(db: Queryable, projectId: string, query: PageQuery) {
  const conditions: (SQL | undefined)[] = [...unrevoked(projectId)];
  if (query.after !== undefined) {
    conditions.push(
      sql`(${apiKeys.createdAt}, ${apiKeys.id}) > (select k.created_at, k.id from ${apiKeys} k where k.project_id = ${projectId} and k.id = ${query.after})`,
    );
  }
  const rows = await selectKeys(db, conditions, query.limit + 1);
  return pageOf(rows, query.limit);
}

/** Whether the project ever had this key or account: cursors may outlive what they point at. */
export async function wasInProject(
  db: Queryable,
  table: 'keys' | 'accounts',
  projectId: string,
  id: string,
): Promise<boolean> {
  const from = table === 'keys' ? apiKeys : accounts;
  return (await db.$count(from, and(eq(from.projectId, projectId), eq(from.id, id)))) > 0;
}

/** Changes a key that is neither revoked nor expired; false when there is none. */
export async function updateKey(
  db: Queryable,
  projectId: string,
  id: string,
  change: { scopes?: string[]; expiresAt?: Date },
): Promise<boolean> {
  const live = sql`(${apiKeys.expiresAt} is null or ${apiKeys.expiresAt} > clock_timestamp())`;
  const rows = await db
    .update(apiKeys)
    .set(change)
    .where(and(...unrevoked(projectId), eq(apiKeys.id, id), live))
    .returning({ id: apiKeys.id });
  return rows.length > 0;
}
