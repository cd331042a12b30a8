/**
 * Every table of the service. Column names are explicit, times are `timestamptz` written by the database's clock,
 * and every row a user can see carries `project_id`: no query may forget it.
 */
import { sql } from 'drizzle-orm';
import {
  bigint,
  boolean,
  foreignKey,
  index,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  text,
  timestamp,
  uniqueIndex,
} from 'drizzle-orm/pg-core';

const time = (name: string) => timestamp(name, { withTimezone: true, mode: 'date' });
const createdAt = () => time('created_at').notNull().default(sql`clock_timestamp()`);

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
  createdAt: createdAt(),
});

/** The files a training starts from instead of the base model alone. */
export interface StartWeights {
  kind: 'adapter' | 'full';
  storage_prefix: string;
  files: StoredFile[];
}

/** One row a job: what was asked, what is in force, how far it is, and who holds it (the queue lives here too). */
export const jobs = pgTable(
  'fine_tuning_jobs',
  {
    id: text('id').notNull(), // ftjob-…
    projectId: text('project_id')
      .notNull()
      .references(() => projects.id),
    // asked
    model: text('model').notNull(), // base model id
    startModel: text('start_model'), // ft: id the training continues from
    start: jsonb('start').$type<StartWeights | null>(), // where its weights lie, as they were at creation
    trainingFile: text('training_file').notNull(),
    validationFile: text('validation_file'),
    suffix: text('suffix'),
    seed: integer('seed').notNull(),
    metadata: jsonb('metadata').$type<Record<string, string> | null>(),
    integrations: jsonb('integrations').$type<unknown[] | null>(), // stored and shown; no tracker is built in
    method: jsonb('method').notNull(), // { type, supervised: { hyperparameters } }: "auto" becomes a number when resolved
    adapter: jsonb('adapter').notNull(), // PEFT names
    trainer: jsonb('trainer').notNull(), // TrainingArguments names
    // state: written only through domain/jobs/states.ts
    status: text('status').notNull(),
    error: jsonb('error').$type<{ code: string; message: string; param: string | null } | null>(),
    createdAt: createdAt(),
    startedAt: time('started_at'),
    finishedAt: time('finished_at'),
    estimatedFinish: time('estimated_finish'),
    trainedTokens: bigint('trained_tokens', { mode: 'number' }),
    fineTunedModel: text('fine_tuned_model'),
    resultFiles: jsonb('result_files').$type<string[]>().notNull().default([]),
    progress: jsonb('progress').$type<{ step: number; total_steps: number; epoch: number } | null>(),
    cancelRequestedAt: time('cancel_requested_at'),
    pauseRequestedAt: time('pause_requested_at'),
    // queue: written by the claim and the holder of the current epoch
    priority: integer('priority').notNull().default(0),
    runAfter: time('run_after').notNull().default(sql`clock_timestamp()`),
    epoch: integer('epoch').notNull().default(0), // fencing token, +1 with every claim
    attempts: integer('attempts').notNull().default(0),
    crashes: integer('crashes').notNull().default(0), // since the last checkpoint
    workerId: text('worker_id'),
    leaseUntil: time('lease_until'),
    eventSeq: bigint('event_seq', { mode: 'number' }).notNull().default(0),
  },
  (t) => [
    primaryKey({ columns: [t.projectId, t.id] }),
    uniqueIndex('fine_tuning_jobs_id').on(t.id),
    index('fine_tuning_jobs_list').on(t.projectId, t.createdAt, t.id),
    index('fine_tuning_jobs_metadata')
      .using('gin', sql`${t.metadata} jsonb_path_ops`)
      .where(sql`metadata is not null`),
    index('fine_tuning_jobs_no_metadata')
      .on(t.projectId, t.createdAt, t.id)
      .where(sql`coalesce(metadata, '{}'::jsonb) = '{}'::jsonb`),
    index('fine_tuning_jobs_waiting')
      .on(t.model, t.priority, t.createdAt, t.id)
      .where(sql`status in ('validating_files', 'queued', 'running') and worker_id is null`),
    index('fine_tuning_jobs_held').on(t.leaseUntil).where(sql`worker_id is not null`),
    foreignKey({ columns: [t.projectId, t.trainingFile], foreignColumns: [files.projectId, files.id] }),
    foreignKey({ columns: [t.projectId, t.validationFile], foreignColumns: [files.projectId, files.id] }),
  ],
);

/** What a user follows; `seq` is gap-free per job. */
export const jobEvents = pgTable(
  'fine_tuning_job_events',
  {
    id: text('id').primaryKey(), // ftevent-…
    projectId: text('project_id').notNull(),
    jobId: text('job_id').notNull(),
    seq: bigint('seq', { mode: 'number' }).notNull(),
    level: text('level').notNull(), // info | warn | error
    type: text('type').notNull(), // message | metrics
    message: text('message').notNull(),
    data: jsonb('data').$type<Record<string, unknown>>().notNull().default({}),
    createdAt: createdAt(),
  },
  (t) => [
    uniqueIndex('fine_tuning_job_events_seq').on(t.jobId, t.seq),
    foreignKey({ columns: [t.projectId, t.jobId], foreignColumns: [jobs.projectId, jobs.id] }),
  ],
);

export interface StoredFile {
  name: string;
  bytes: number;
  sha256: string;
}

/**
 * Saved training states. The row is written after every file is in storage; `files` and `digest` let a reader verify
 * them. `modelName` is set for those offered to users (the last three epochs).
 */
export const jobCheckpoints = pgTable(
  'fine_tuning_job_checkpoints',
  {
    id: text('id').primaryKey(), // ftckpt_…
    projectId: text('project_id').notNull(),
    jobId: text('job_id').notNull(),
    epoch: integer('epoch').notNull(), // the writer's fencing epoch
    step: integer('step').notNull(),
    kind: text('kind').notNull(), // epoch (offered to users) | state (resume only)
    modelName: text('model_name'),
    storagePrefix: text('storage_prefix').notNull(),
    files: jsonb('files').$type<StoredFile[]>().notNull(),
    digest: text('digest').notNull(),
    metrics: jsonb('metrics').$type<Record<string, number>>().notNull().default({}),
    createdAt: createdAt(),
    deletedAt: time('deleted_at'),
  },
  (t) => [
    index('fine_tuning_job_checkpoints_list').on(t.jobId, t.step),
    foreignKey({ columns: [t.projectId, t.jobId], foreignColumns: [jobs.projectId, jobs.id] }),
  ],
);

/** Tuned models and published checkpoints that `/v1/chat/completions` accepts as `model`. */
export const tunedModels = pgTable(
  'tuned_models',
  {
    id: text('id').primaryKey(), // ft:base:org:suffix:xxxxxxxx[:ckpt-step-N]
    projectId: text('project_id')
      .notNull()
      .references(() => projects.id),
    jobId: text('job_id'), // null: an imported adapter
    baseModel: text('base_model')
      .notNull()
      .references(() => baseModels.id),
    kind: text('kind').notNull(), // adapter | full
    ownedBy: text('owned_by').notNull(),
    step: integer('step').notNull(),
    isCheckpoint: boolean('is_checkpoint').notNull(),
    storagePrefix: text('storage_prefix').notNull(),
    files: jsonb('files').$type<StoredFile[]>().notNull(),
    digest: text('digest').notNull(),
    createdAt: createdAt(),
    deletedAt: time('deleted_at'),
  },
  (t) => [
    index('tuned_models_project').on(t.projectId, t.createdAt),
    foreignKey({ columns: [t.projectId, t.jobId], foreignColumns: [jobs.projectId, jobs.id] }),
  ],
);

/** Live processes: trainers and inference workers, with the address the API calls. */
export const workers = pgTable('workers', {
  id: text('id').primaryKey(),
  kind: text('kind').notNull(), // trainer | inference
  url: text('url'), // inference only
  baseModel: text('base_model'), // inference only
  device: text('device').notNull(),
  host: text('host').notNull(),
  pid: integer('pid').notNull(),
  state: text('state').notNull(), // starting | ready | draining
  memoryBytes: bigint('memory_bytes', { mode: 'number' }), // what trainings here may use; null where it is not known
  startedAt: createdAt(),
  heartbeatAt: time('heartbeat_at').notNull().default(sql`clock_timestamp()`),
});
