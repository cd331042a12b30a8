/**
 * The statements about files. Every one names the project; a file past its end or deleted is as good as unknown.
 */
import { and, asc, desc, eq, isNull, not, or, type SQL, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { pageOf } from '../../db/page.ts';
import { files } from '../../db/schema.ts';
import { batches } from '../../db/schema-batches.ts';
import { jobs } from '../../db/schema-jobs.ts';

/** What a user may upload a file for. */
export const FILE_PURPOSES = ['assistants', 'batch', 'fine-tune', 'vision', 'user_data', 'evals'] as const;
export type FilePurpose = (typeof FILE_PURPOSES)[number];

export type FileRow = typeof files.$inferSelect;

export interface NewFile {
  id: string;
  projectId: string;
  bytes: number;
  filename: string;
  purpose: string;
  storageKey: string;
  sha256: string;
  /** Seconds from now; null = never. */
  expiresAfterSeconds: number | null;
}

const visible = (projectId: string) =>
  and(
    eq(files.projectId, projectId),
    isNull(files.deletedAt),
    or(isNull(files.expiresAt), sql`${files.expiresAt} > clock_timestamp()`),
  );

export async function insertFile(db: Queryable, file: NewFile): Promise<FileRow> {
  const { expiresAfterSeconds: seconds, ...columns } = file;
  const expiresAt = seconds === null ? null : sql`clock_timestamp() + make_interval(secs => ${seconds})`;
  const rows = await db
    .insert(files)
    .values({ ...columns, expiresAt })
    .returning();
  return rows[0]!;
}

export async function findFile(db: Queryable, projectId: string, id: string): Promise<FileRow | null> {
  const rows = await db
    .select()
    .from(files)
    .where(and(visible(projectId), eq(files.id, id)));
  return rows[0] ?? null;
}

/** As findFile; until the transaction ends nobody can delete it. */
export async function lockFile(db: Queryable, projectId: string, id: string): Promise<FileRow | null> {
  const rows = await db
    .select()
    .from(files)
    .where(and(visible(projectId), eq(files.id, id)))
    .for('share');
  return rows[0] ?? null;
}

export interface FileQuery {
  purpose?: string;
  order: 'asc' | 'desc';
  limit: number;
  after?: string;
}

/** One page by time of creation; `after` may name a file deleted meanwhile. */
export async function listFiles(db: Queryable, projectId: string, query: FileQuery) {
  const conditions: (SQL | undefined)[] = [visible(projectId)];
  if (query.purpose !== undefined) conditions.push(eq(files.purpose, query.purpose));
  if (query.after !== undefined) {
    const place = sql`(select f.created_at, f.id from ${files} f where f.project_id = ${projectId} and f.id = ${query.after})`;
    const here = sql`(${files.createdAt}, ${files.id})`;
    conditions.push(query.order === 'asc' ? sql`${here} > ${place}` : sql`${here} < ${place}`);
  }
  const direction = query.order === 'asc' ? asc : desc;
  const rows = await db
    .select()
    .from(files)
    .where(and(...conditions))
    .orderBy(direction(files.createdAt), direction(files.id))
    .limit(query.limit + 1);
  return pageOf(rows, query.limit);
}

/** Whether the project ever had this file: cursors may outlive what they point at. */
export async function fileExisted(db: Queryable, projectId: string, id: string): Promise<boolean> {
  const rows = await db
    .select({ id: files.id })
    .from(files)
    .where(and(eq(files.projectId, projectId), eq(files.id, id)));
  return rows.length > 0;
}

/** Marks the file deleted; null when the project has no such file. */
export async function markFileDeleted(db: Queryable, projectId: string, id: string): Promise<FileRow | null> {
  const rows = await db
    .update(files)
    .set({ deletedAt: sql`clock_timestamp()` })
    .where(and(visible(projectId), eq(files.id, id)))
    .returning();
  return rows[0] ?? null;
}

/**
 * Who may still read a file that is over for its users. Each is a condition on a row of `files`; whoever reads files
 * later than they were asked for adds one.
 */
const FILE_HOLDERS: SQL[] = [
  sql`exists (select 1 from ${jobs} j where j.project_id = ${files.projectId}
    and ${files.id} in (j.training_file, j.validation_file)
    and j.status not in ('succeeded', 'failed', 'cancelled'))`,
  sql`exists (select 1 from ${batches} b where b.project_id = ${files.projectId}
    and b.input_file_id = ${files.id} and b.status in ('validating', 'in_progress', 'finalizing', 'cancelling'))`,
];

const isHeld = () => or(...FILE_HOLDERS);

/** Whether work that has not ended still reads the file. */
export async function isFileInUse(db: Queryable, projectId: string, id: string): Promise<boolean> {
  const rows = await db
    .select({ id: files.id })
    .from(files)
    .where(and(eq(files.projectId, projectId), eq(files.id, id), isHeld()));
  return rows.length > 0;
}

/**
 * Files of any project that were deleted or expired `graceSeconds` ago, that nobody reads any more and whose bytes
 * have not been removed. The grace keeps clear of a job that was created in the last moment.
 */
export function overFiles(db: Queryable, graceSeconds: number, limit: number) {
  return db
    .select({ projectId: files.projectId, id: files.id, storageKey: files.storageKey })
    .from(files)
    .where(
      and(
        isNull(files.sweptAt),
        sql`least(${files.deletedAt}, ${files.expiresAt}) < clock_timestamp() - make_interval(secs => ${graceSeconds})`,
        not(isHeld()!),
      ),
    )
    .limit(limit);
}

/** Writes down that the bytes are gone. */
export async function markFilesSwept(db: Queryable, swept: readonly { projectId: string; id: string }[]) {
  for (const { projectId, id } of swept) {
    await db
      .update(files)
      .set({ sweptAt: sql`clock_timestamp()` })
      .where(and(eq(files.projectId, projectId), eq(files.id, id)));
  }
}
