/** The rows of stored chat completions. Every statement names the project. */
import { and, asc, desc, eq, inArray, type SQL, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { chatCompletions } from '../../db/schema-chat.ts';

type Row = typeof chatCompletions.$inferSelect;
/** What is shown of a completion. */
export type StoredRow = Pick<Row, 'id' | 'metadata' | 'completion'>;
export type StoredMessages = Pick<Row, 'id' | 'request'>;

const shown = {
  id: chatCompletions.id,
  metadata: chatCompletions.metadata,
  completion: chatCompletions.completion,
};
/** A page ends with the completion that passes this, so that no list comes to more than a process can hold. */
const PAGE_BYTES = 8 * 2 ** 20;

export interface StoredQuery {
  limit: number;
  order: 'asc' | 'desc';
  after?: string | undefined;
  model?: string | undefined;
  /** Pairs a completion must have; null = completions without metadata. */
  metadata?: Record<string, string> | null | undefined;
}

export async function insertStored(db: Queryable, row: Omit<Row, 'createdAt' | 'bytes'>): Promise<void> {
  await db.insert(chatCompletions).values({ ...row, createdAt: sql`clock_timestamp()` });
}

export async function findStored(db: Queryable, projectId: string, id: string): Promise<StoredRow | null> {
  const rows = await db.select(shown).from(chatCompletions).where(mine(projectId, id));
  return rows[0] ?? null;
}

export async function findMessages(
  db: Queryable,
  projectId: string,
  id: string,
): Promise<StoredMessages | null> {
  const rows = await db
    .select({ id: chatCompletions.id, request: chatCompletions.request })
    .from(chatCompletions)
    .where(mine(projectId, id));
  return rows[0] ?? null;
}

/** One page in the order of creation, or against it; at least one completion, then as many as PAGE_BYTES hold. */
export async function listStored(db: Queryable, projectId: string, query: StoredQuery) {
  const conditions: SQL[] = [eq(chatCompletions.projectId, projectId)];
  if (query.model !== undefined) conditions.push(eq(chatCompletions.model, query.model));
  if (query.metadata === null)
    conditions.push(sql`coalesce(${chatCompletions.metadata}, '{}'::jsonb) = '{}'::jsonb`);
  else if (query.metadata)
    conditions.push(sql`${chatCompletions.metadata} @> ${JSON.stringify(query.metadata)}::jsonb`);
  if (query.after !== undefined) {
    const place = sql`(select c.created_at, c.id from ${chatCompletions} c where c.project_id = ${projectId} and c.id = ${query.after})`;
    const here = sql`(${chatCompletions.createdAt}, ${chatCompletions.id})`;
    conditions.push(query.order === 'asc' ? sql`${here} > ${place}` : sql`${here} < ${place}`);
  }
  const direction = query.order === 'asc' ? asc : desc;
  const found = await db
    .select({ id: chatCompletions.id, bytes: sql<number>`octet_length(${chatCompletions.completion}::text)` })
    .from(chatCompletions)
    .where(and(...conditions))
    .orderBy(direction(chatCompletions.createdAt), direction(chatCompletions.id))
    .limit(query.limit + 1);
  let bytes = 0;
  const ids: string[] = [];
  for (const each of found.slice(0, query.limit)) {
    if (bytes >= PAGE_BYTES) break;
    bytes += each.bytes;
    ids.push(each.id);
  }
  const rows = await db
    .select(shown)
    .from(chatCompletions)
    .where(and(eq(chatCompletions.projectId, projectId), inArray(chatCompletions.id, ids)));
  const byId = new Map(rows.map((row) => [row.id, row]));
  // One that was deleted in between is no longer there.
  return { items: ids.flatMap((id) => byId.get(id) ?? []), hasMore: found.length > ids.length };
}

export async function updateMetadata(
  db: Queryable,
  projectId: string,
  id: string,
  metadata: Record<string, string> | null,
): Promise<StoredRow | null> {
  const rows = await db.update(chatCompletions).set({ metadata }).where(mine(projectId, id)).returning(shown);
  return rows[0] ?? null;
}

export async function deleteStored(db: Queryable, projectId: string, id: string): Promise<boolean> {
  const rows = await db
    .delete(chatCompletions)
    .where(mine(projectId, id))
    .returning({ id: chatCompletions.id });
  return rows.length > 0;
}

const mine = (projectId: string, id: string) =>
  and(eq(chatCompletions.projectId, projectId), eq(chatCompletions.id, id));
