/** The statements about webhook endpoints. Every one names the project. */
import { and, desc, eq, isNull, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { pageOf } from '../../db/page.ts';
import { webhookEndpoints } from '../../db/schema-webhooks.ts';

export type EndpointRow = typeof webhookEndpoints.$inferSelect;

const live = (projectId: string, id: string) =>
  and(
    eq(webhookEndpoints.projectId, projectId),
    eq(webhookEndpoints.id, id),
    isNull(webhookEndpoints.deletedAt),
  );

export async function insertEndpoint(
  db: Queryable,
  row: Pick<EndpointRow, 'id' | 'projectId' | 'name' | 'url' | 'eventTypes' | 'secret'>,
): Promise<EndpointRow> {
  const rows = await db.insert(webhookEndpoints).values(row).returning();
  return rows[0]!;
}

export function countEndpoints(db: Queryable, projectId: string): Promise<number> {
  return db.$count(
    webhookEndpoints,
    and(eq(webhookEndpoints.projectId, projectId), isNull(webhookEndpoints.deletedAt)),
  );
}

export async function findEndpoint(
  db: Queryable,
  projectId: string,
  id: string,
): Promise<EndpointRow | null> {
  const rows = await db.select().from(webhookEndpoints).where(live(projectId, id));
  return rows[0] ?? null;
}

/** As findEndpoint(); nobody else changes the row until the transaction ends. */
export async function lockEndpoint(
  tx: Queryable,
  projectId: string,
  id: string,
): Promise<EndpointRow | null> {
  const rows = await tx.select().from(webhookEndpoints).where(live(projectId, id)).for('update');
  return rows[0] ?? null;
}

/** One page, newest first. */
export async function listEndpoints(
  db: Queryable,
  projectId: string,
  { limit, after }: { limit: number; after?: string },
) {
  const rows = await db
    .select()
    .from(webhookEndpoints)
    .where(
      and(
        eq(webhookEndpoints.projectId, projectId),
        isNull(webhookEndpoints.deletedAt),
        after === undefined
          ? undefined
          : sql`(${webhookEndpoints.createdAt}, ${webhookEndpoints.id}) < (select e.created_at, e.id from ${webhookEndpoints} e where e.project_id = ${projectId} and e.id = ${after})`,
      ),
    )
    .orderBy(desc(webhookEndpoints.createdAt), desc(webhookEndpoints.id))
    .limit(limit + 1);
  return pageOf(rows, limit);
}

/** Changes what is given. A changed endpoint is tried again, also one that was switched off after long failure. */
export async function updateEndpoint(
  db: Queryable,
  projectId: string,
  id: string,
  change: Partial<Pick<EndpointRow, 'name' | 'url' | 'eventTypes' | 'secret' | 'oldSecret'>>,
): Promise<EndpointRow | null> {
  const rows = await db
    .update(webhookEndpoints)
    .set({ ...change, updatedAt: sql`clock_timestamp()`, failingSince: null, disabledAt: null })
    .where(live(projectId, id))
    .returning();
  return rows[0] ?? null;
}

/** A new secret; the old one, when it is given, signs beside it for `keepSeconds`. */
export async function replaceSecret(
  db: Queryable,
  projectId: string,
  id: string,
  { secret, oldSecret }: Pick<EndpointRow, 'secret' | 'oldSecret'>,
  keepSeconds: number,
): Promise<EndpointRow | null> {
  const rows = await db
    .update(webhookEndpoints)
    .set({
      secret,
      oldSecret,
      oldSecretUntil:
        oldSecret === null ? null : sql`clock_timestamp() + make_interval(secs => ${keepSeconds})`,
      updatedAt: sql`clock_timestamp()`,
    })
    .where(live(projectId, id))
    .returning();
  return rows[0] ?? null;
}

/** False when the project has no such endpoint. */
export async function markEndpointDeleted(db: Queryable, projectId: string, id: string): Promise<boolean> {
  const rows = await db
    .update(webhookEndpoints)
    .set({ deletedAt: sql`clock_timestamp()` })
    .where(live(projectId, id))
    .returning({ id: webhookEndpoints.id });
  return rows.length > 0;
}
