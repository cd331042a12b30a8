/**
 * Tables of Uploads (files that come in parts) and of the work on models that an inference worker's machine does beside
 * serving: checking imported adapters and merging adapters for download.
 */
import { sql } from 'drizzle-orm';
import { bigint, index, integer, jsonb, pgTable, text } from 'drizzle-orm/pg-core';
import { createdAt, type StoredFile, time } from './columns.ts';
import { projects } from './schema.ts';

/** A file announced and not yet whole. A pending one past `expires_at` is expired, whether a sweep has said so or not. */
export const uploads = pgTable(
  'uploads',
  {
    id: text('id').primaryKey(), // upload_…
    projectId: text('project_id')
      .notNull()
      .references(() => projects.id),
    filename: text('filename').notNull(),
    purpose: text('purpose').notNull(),
    mimeType: text('mime_type').notNull(),
    bytes: bigint('bytes', { mode: 'number' }).notNull(),
    fileExpiresAfterSeconds: integer('file_expires_after_seconds'),
    status: text('status').notNull().default('pending'), // pending | completed | cancelled | expired
    fileId: text('file_id'),
    partIds: jsonb('part_ids').$type<string[] | null>(), // what the file was made of
    md5: text('md5'), // of the whole file, hex, once completed
    createdAt: createdAt(),
    expiresAt: time('expires_at').notNull(),
    endedAt: time('ended_at'),
  },
  (t) => [index('uploads_project').on(t.projectId, t.createdAt)],
);

/** A part whose bytes are in storage; the row goes when they go. */
export const uploadParts = pgTable(
  'upload_parts',
  {
    id: text('id').primaryKey(), // part_…
    projectId: text('project_id').notNull(),
    uploadId: text('upload_id')
      .notNull()
      .references(() => uploads.id),
    bytes: bigint('bytes', { mode: 'number' }).notNull(),
    sha256: text('sha256').notNull(),
    storageKey: text('storage_key').notNull(),
    createdAt: createdAt(),
  },
  (t) => [index('upload_parts_upload').on(t.uploadId)],
);

/**
 * Work on a model: 'import' checks an adapter and publishes it as `model_id`, 'export' merges the adapter of `model_id`
 * into its base. Claimed with a lease; `epoch` fences every write of the holder, as with jobs.
 */
export const modelOperations = pgTable(
  'model_operations',
  {
    id: text('id').primaryKey(), // export_… | import_…
    projectId: text('project_id')
      .notNull()
      .references(() => projects.id),
    kind: text('kind').notNull(), // export | import
    baseModel: text('base_model').notNull(),
    baseDigest: text('base_digest'), // export: what the model was trained on; null = not known
    modelId: text('model_id').notNull(),
    inputPrefix: text('input_prefix').notNull(),
    inputFiles: jsonb('input_files').$type<StoredFile[]>().notNull(),
    status: text('status').notNull().default('queued'), // queued | running | succeeded | failed | expired
    error: jsonb('error').$type<{ code: string; message: string; param: string | null } | null>(),
    storagePrefix: text('storage_prefix'),
    files: jsonb('files').$type<StoredFile[] | null>(),
    createdAt: createdAt(),
    finishedAt: time('finished_at'),
    expiresAt: time('expires_at'),
    epoch: integer('epoch').notNull().default(0),
    workerId: text('worker_id'),
    leaseUntil: time('lease_until'),
  },
  (t) => [
    index('model_operations_project').on(t.projectId, t.createdAt),
    index('model_operations_claim').on(t.createdAt).where(sql`status in ('queued', 'running')`),
  ],
);
