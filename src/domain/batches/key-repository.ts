/**
 * Whether a batch may still run: the key that created it, or what it belongs to, may be gone by then. Knows nothing of
 * how batches run.
 */
import { and, eq, inArray, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { apiKeys, projects } from '../../db/schema.ts';
import { batches } from '../../db/schema-batches.ts';
import type { Hold } from './queue-repository.ts';

/**
 * Asks for the end of the batch when its key is revoked or expired (as by the deletion of its service account), may no
 * longer ask models, or belongs to an archived project. True when it did.
 */
export async function cancelWithoutKey(db: Queryable, { projectId, id }: Hold): Promise<boolean> {
  const key = sql`(select 1 from ${apiKeys} k join ${projects} p on p.id = k.project_id
    where k.id = ${batches.keyId} and k.project_id = ${batches.projectId} and k.revoked_at is null
      and (k.expires_at is null or k.expires_at > clock_timestamp())
      and (cardinality(k.scopes) = 0 or 'api.model.request' = any(k.scopes))
      and p.archived_at is null)`;
  const rows = await db
    .update(batches)
    .set({ status: 'cancelling', cancellingAt: sql`clock_timestamp()` })
    .where(
      and(
        eq(batches.projectId, projectId),
        eq(batches.id, id),
        inArray(batches.status, ['validating', 'in_progress']),
        sql`not exists ${key}`,
      ),
    )
    .returning({ id: batches.id });
  return rows.length > 0;
}
