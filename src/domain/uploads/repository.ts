/**
 * The statements about Uploads and their parts. Every one names the project; a pending Upload past its end counts as
 * expired whether a sweep has written that down or not.
 */
import { and, eq, gt, inArray, sql } from 'drizzle-orm';
import type { Queryable, Transaction } from '../../db/client.ts';
import { uploadParts, uploads } from '../../db/schema-uploads.ts';

export type UploadRow = Omit<typeof uploads.$inferSelect, 'status'> & { status: UploadStatus };
export type PartRow = typeof uploadParts.$inferSelect;
export type UploadStatus = 'pending' | 'completed' | 'cancelled' | 'expired';

export interface NewUpload {
  id: string;
  projectId: string;
  filename: string;
  purpose: string;
  mimeType: string;
  bytes: number;
  fileExpiresAfterSeconds: number | null;
}

const effective = {
  ...{ id: uploads.id, projectId: uploads.projectId, filename: uploads.filename, purpose: uploads.purpose },
  ...{ mimeType: uploads.mimeType, bytes: uploads.bytes, fileId: uploads.fileId, partIds: uploads.partIds },
  md5: uploads.md5,
  fileExpiresAfterSeconds: uploads.fileExpiresAfterSeconds,
  status: sql<UploadStatus>`case when ${uploads.status} = 'pending' and ${uploads.expiresAt} <= clock_timestamp()
    then 'expired' else ${uploads.status} end`,
  ...{ createdAt: uploads.createdAt, expiresAt: uploads.expiresAt, endedAt: uploads.endedAt },
};

export async function insertUpload(
  db: Queryable,
  upload: NewUpload,
  lifeSeconds: number,
): Promise<UploadRow> {
  const expiresAt = sql`clock_timestamp() + make_interval(secs => ${lifeSeconds})`;
  const rows = await db
    .insert(uploads)
    .values({ ...upload, expiresAt })
    .returning(effective);
  return rows[0]!;
}

/** How many bytes the project's pending Uploads announce together. */
export async function pendingBytes(db: Queryable, projectId: string): Promise<number> {
  const rows = await db
    .select({ bytes: sql<string>`coalesce(sum(${uploads.bytes}), 0)` })
    .from(uploads)
    .where(
      and(
        eq(uploads.projectId, projectId),
        eq(uploads.status, 'pending'),
        gt(uploads.expiresAt, sql`clock_timestamp()`),
      ),
    );
  return Number(rows[0]!.bytes);
}

export async function findUpload(db: Queryable, projectId: string, id: string): Promise<UploadRow | null> {
  const rows = await db
    .select(effective)
    .from(uploads)
    .where(and(eq(uploads.projectId, projectId), eq(uploads.id, id)));
  return rows[0] ?? null;
}

/** As findUpload, with the row locked until the transaction ends. */
export async function lockUpload(tx: Transaction, projectId: string, id: string): Promise<UploadRow | null> {
  const rows = await tx
    .select(effective)
    .from(uploads)
    .where(and(eq(uploads.projectId, projectId), eq(uploads.id, id)))
    .for('update');
  return rows[0] ?? null;
}

/** Number and bytes of an Upload's parts. */
export async function sumParts(db: Queryable, projectId: string, uploadId: string) {
  const rows = await db
    .select({ count: sql<string>`count(*)`, bytes: sql<string>`coalesce(sum(${uploadParts.bytes}), 0)` })
    .from(uploadParts)
    .where(and(eq(uploadParts.projectId, projectId), eq(uploadParts.uploadId, uploadId)));
  return { count: Number(rows[0]!.count), bytes: Number(rows[0]!.bytes) };
}

export async function insertPart(tx: Transaction, part: Omit<PartRow, 'createdAt'>): Promise<PartRow> {
  const rows = await tx.insert(uploadParts).values(part).returning();
  return rows[0]!;
}

/** Those of the named parts that belong to the Upload, by id. */
export async function findParts(
  db: Queryable,
  projectId: string,
  uploadId: string,
  ids: readonly string[],
): Promise<Map<string, PartRow>> {
  const rows = await db
    .select()
    .from(uploadParts)
    .where(
      and(
        eq(uploadParts.projectId, projectId),
        eq(uploadParts.uploadId, uploadId),
        inArray(uploadParts.id, [...ids]),
      ),
    );
  return new Map(rows.map((row) => [row.id, row]));
}

/** Ends a locked pending Upload. */
export async function endUpload(
  tx: Transaction,
  projectId: string,
  id: string,
  end: { status: 'completed'; fileId: string; partIds: string[]; md5: string } | { status: 'cancelled' },
): Promise<UploadRow> {
  const rows = await tx
    .update(uploads)
    .set({ ...end, endedAt: sql`clock_timestamp()` })
    .where(and(eq(uploads.projectId, projectId), eq(uploads.id, id)))
    .returning(effective);
  return rows[0]!;
}

/** Parts of Uploads that have ended: nobody needs them any more. */
export function endedParts(
  db: Queryable,
  scope: { projectId: string; uploadId: string } | null,
  limit: number,
) {
  return db
    .select({ id: uploadParts.id, projectId: uploadParts.projectId, storageKey: uploadParts.storageKey })
    .from(uploadParts)
    .innerJoin(uploads, eq(uploads.id, uploadParts.uploadId))
    .where(
      and(
        sql`${uploads.status} <> 'pending'`,
        scope ? eq(uploads.projectId, scope.projectId) : undefined,
        scope ? eq(uploads.id, scope.uploadId) : undefined,
      ),
    )
    .limit(limit);
}

export async function deletePart(db: Queryable, projectId: string, id: string): Promise<void> {
  await db.delete(uploadParts).where(and(eq(uploadParts.projectId, projectId), eq(uploadParts.id, id)));
}

/**
 * Ends the pending Uploads of every project that expired `graceSeconds` ago. A completion that had begun before is
 * given that time. @returns how many
 */
export async function expireUploads(db: Queryable, graceSeconds: number): Promise<number> {
  const { rowCount } = await db
    .update(uploads)
    .set({ status: 'expired', endedAt: sql`clock_timestamp()` })
    .where(
      and(
        eq(uploads.status, 'pending'),
        sql`${uploads.expiresAt} < clock_timestamp() - make_interval(secs => ${graceSeconds})`,
      ),
    );
  return rowCount ?? 0;
}

/** Removes rows of Uploads that ended `seconds` ago and have no parts left. @returns how many */
export async function forgetUploads(db: Queryable, seconds: number): Promise<number> {
  const { rowCount } = await db
    .delete(uploads)
    .where(
      and(
        sql`${uploads.status} <> 'pending'`,
        sql`${uploads.endedAt} < clock_timestamp() - make_interval(secs => ${seconds})`,
        sql`not exists (select 1 from ${uploadParts} p where p.upload_id = ${uploads.id})`,
      ),
    );
  return rowCount ?? 0;
}
