/**
 * Tables of fine-tuning: jobs (the queue is in their rows), their events and checkpoints, and the models they make.
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
  uniqueIndex,
} from 'drizzle-orm/pg-core';
import { createdAt, type StoredFile, time } from './columns.ts';
import { baseModels, files, projects } from './schema.ts';

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
    baseDigest: text('base_digest'), // files of the base model that it trains on; null = not begun, or from before
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
    baseDigest: text('base_digest'), // the base model's files at that time; null = not known
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
