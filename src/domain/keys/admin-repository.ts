/**
 * The statements about admin keys. Every one but the look-up by the key itself names the organization.
 */
import { and, asc, desc, eq, isNull, lt, or, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { pageOf } from '../../db/page.ts';
import { organizations } from '../../db/schema.ts';
import { adminApiKeys } from '../../db/schema-tenancy.ts';
import type { KeyRecord } from './repository.ts';

export type AdminKeyRow = Omit<typeof adminApiKeys.$inferSelect, 'secretSha256' | 'organizationId'>;

const shown = {
  id: adminApiKeys.id,
  name: adminApiKeys.name,
  createdAt: adminApiKeys.createdAt,
  expiresAt: adminApiKeys.expiresAt,
  revokedAt: adminApiKeys.revokedAt,
  lastUsedAt: adminApiKeys.lastUsedAt,
};

const isLive = and(
  isNull(adminApiKeys.revokedAt),
  or(isNull(adminApiKeys.expiresAt), sql`${adminApiKeys.expiresAt} > clock_timestamp()`),
);

const unrevoked = (organizationId: string, id: string) =>
  and(
    eq(adminApiKeys.organizationId, organizationId),
    eq(adminApiKeys.id, id),
    isNull(adminApiKeys.revokedAt),
  );

/** As findLiveKey() in repository.ts, for admin keys. */
export async function findLiveAdminKey(db: Queryable, id: string): Promise<KeyRecord | null> {
  const rows = await db
    .select({
      id: adminApiKeys.id,
      secretSha256: adminApiKeys.secretSha256,
      organization: { id: organizations.id, slug: organizations.slug },
    })
    .from(adminApiKeys)
    .innerJoin(organizations, eq(organizations.id, adminApiKeys.organizationId))
    .where(and(eq(adminApiKeys.id, id), isLive));
  return rows[0] ? { ...rows[0], projectId: '', scopes: [], role: null } : null;
}

/** Notes the use of a key, at most once a minute. */
export async function touchAdminKey(db: Queryable, id: string): Promise<void> {
  const now = sql`clock_timestamp()`;
  const longAgo = lt(adminApiKeys.lastUsedAt, sql`${now} - interval '1 minute'`);
  await db
    .update(adminApiKeys)
    .set({ lastUsedAt: now })
    .where(and(eq(adminApiKeys.id, id), or(isNull(adminApiKeys.lastUsedAt), longAgo)));
}

export async function insertAdminKey(
  db: Queryable,
  row: { id: string; organizationId: string; name: string; secretSha256: string; expiresAt: Date | null },
): Promise<AdminKeyRow> {
  const rows = await db.insert(adminApiKeys).values(row).returning(shown);
  return rows[0]!;
}

/** A key that has not been revoked (it may have expired). */
export async function findAdminKey(
  db: Queryable,
  organizationId: string,
  id: string,
): Promise<AdminKeyRow | null> {
  const rows = await db.select(shown).from(adminApiKeys).where(unrevoked(organizationId, id));
  return rows[0] ?? null;
}

/** One page of the keys that have not been revoked, by time of creation. */
export async function listAdminKeys(
  db: Queryable,
  organizationId: string,
  query: { limit: number; after?: string; order: 'asc' | 'desc' },
) {
  const here = sql`(${adminApiKeys.createdAt}, ${adminApiKeys.id})`;
  const place = sql`(select k.created_at, k.id from ${adminApiKeys} k where k.organization_id = ${organizationId} and k.id = ${query.after ?? ''})`;
  const beyond = query.order === 'asc' ? sql`${here} > ${place}` : sql`${here} < ${place}`;
  const direction = query.order === 'asc' ? asc : desc;
  const rows = await db
    .select(shown)
    .from(adminApiKeys)
    .where(
      and(
        eq(adminApiKeys.organizationId, organizationId),
        isNull(adminApiKeys.revokedAt),
        query.after === undefined ? undefined : beyond,
      ),
    )
    .orderBy(direction(adminApiKeys.createdAt), direction(adminApiKeys.id))
    .limit(query.limit + 1);
  return pageOf(rows, query.limit);
}

/** Whether the organization ever had this key: cursors may outlive what they point at. */
export async function adminKeyExisted(db: Queryable, organizationId: string, id: string): Promise<boolean> {
  const rows = await db
    .select({ id: adminApiKeys.id })
    .from(adminApiKeys)
    .where(and(eq(adminApiKeys.organizationId, organizationId), eq(adminApiKeys.id, id)));
  return rows.length > 0;
}

/** False when the organization has no such key that is not revoked. */
export async function revokeAdminKeyRow(db: Queryable, organizationId: string, id: string): Promise<boolean> {
  const rows = await db
    .update(adminApiKeys)
    .set({ revokedAt: sql`clock_timestamp()` })
    .where(unrevoked(organizationId, id))
    .returning({ id: adminApiKeys.id });
  return rows.length > 0;
}
