/**
 * The tables that all others hang on: projects, keys, files, base models, worker processes; one schema-*.ts for each
 * subject beside it. Column names are explicit, and every row a user can see carries `project_id`: no query may forget it.
 */
import { sql } from 'drizzle-orm';
import { bigint, index, integer, jsonb, pgTable, primaryKey, text, uniqueIndex } from 'drizzle-orm/pg-core';
import { createdAt, time } from './columns.ts';

/** The customer; `slug` is the third segment of `ft:` model names. */
export const organizations = pgTable('organizations', {
  id: text('id').primaryKey(), // org-…
  slug: text('slug').notNull(),
  name: text('name').notNull(),
  createdAt: createdAt(),
});

/** The unit of isolation: everything below belongs to one project. */
export const projects = pgTable('projects', {
  id: text('id').primaryKey(), // proj_…
  organizationId: text('organization_id')
    .notNull()
    .references(() => organizations.id),
  name: text('name').notNull(),
  createdAt: createdAt(),
  archivedAt: time('archived_at'), // its keys are refused from then on
  // quotas; null = the configured default, 0 = none
  maxActiveJobs: integer('max_active_jobs'),
  maxFiles: integer('max_files'),
  maxStorageBytes: bigint('max_storage_bytes', { mode: 'number' }),
});

/** API keys; only the sha256 of the secret is kept, looked up by the key's public id. */
export const apiKeys = pgTable('api_keys', {
  id: text('id').primaryKey(), // public part of the key, 12 characters
  projectId: text('project_id')
    .notNull()
    .references(() => projects.id),
  name: text('name').notNull(),
  secretSha256: text('secret_sha256').notNull(),
  createdAt: createdAt(),
  expiresAt: time('expires_at'),
  revokedAt: time('revoked_at'),
  lastUsedAt: time('last_used_at'), // at most one write a minute
  scopes: text('scopes').array().notNull().default(sql`'{}'`), // empty = all
  serviceAccountId: text('service_account_id'), // schema-tenancy.ts; null = the project itself, with role owner
});

/** Uploaded and produced files; the row is written after the bytes are safe in storage. */
export const files = pgTable(
  'files',
  {
    id: text('id').notNull(), // file-…
    projectId: text('project_id')
      .notNull()
      .references(() => projects.id),
    bytes: bigint('bytes', { mode: 'number' }).notNull(),
    filename: text('filename').notNull(),
    purpose: text('purpose').notNull(),
    status: text('status').notNull().default('processed'),
    storageKey: text('storage_key').notNull(),
    sha256: text('sha256').notNull(),
    createdAt: createdAt(),
    expiresAt: time('expires_at'),
    deletedAt: time('deleted_at'), // soft: a running job keeps its data
    sweptAt: time('swept_at'), // the bytes are gone
  },
  (t) => [
    primaryKey({ columns: [t.projectId, t.id] }),
    uniqueIndex('files_id').on(t.id),
    index('files_list').on(t.projectId, t.createdAt, t.id),
  ],
);

/** Base models the service offers; a folder in Hugging Face's layout, present on every worker that serves it. */
export const baseModels = pgTable('base_models', {
  id: text('id').primaryKey(), // "lathe-tiny", "Qwen/Qwen3-0.6B"
  location: text('location').notNull(), // folder on the worker's disk
  family: text('family').notNull(),
  parameterCount: bigint('parameter_count', { mode: 'number' }).notNull(),
  contextLength: integer('context_length').notNull(),
  config: jsonb('config').notNull(),
  digest: text('digest'), // of the files that a worker opened last; null = none has yet
  createdAt: createdAt(),
});

/** Live processes: trainers and inference workers, with the address the API calls. */
export const workers = pgTable('workers', {
  id: text('id').primaryKey(),
  kind: text('kind').notNull(), // trainer | inference
  url: text('url'), // inference only
  baseModel: text('base_model'), // inference only
  baseDigest: text('base_digest'), // inference only: which files it holds
  baseModels: text('base_models').array().notNull().default(sql`'{}'`), // trainer only: what it can train
  quantization: text('quantization'), // inference only: int8; null where weights are held as they are
  device: text('device').notNull(),
  host: text('host').notNull(),
  pid: integer('pid').notNull(),
  state: text('state').notNull(), // starting | ready | draining
  memoryBytes: bigint('memory_bytes', { mode: 'number' }), // what trainings here may use; null where it is not known
  startedAt: createdAt(),
  heartbeatAt: time('heartbeat_at').notNull().default(sql`clock_timestamp()`),
});
