/**
 * The tables of batches: one row a batch, which is also its entry in the queue, and one row for every line that has an
 * answer, kept until the answers are files.
 */
import { bigint, boolean, integer, jsonb, pgTable, primaryKey, text } from 'drizzle-orm/pg-core';
import { time } from './columns.ts';

/** What is wrong with one line of the input file; `line` counts from 1. */
export interface BatchLineError {
  code: string;
  message: string;
  param: string | null;
  line: number | null;
}

export const batches = pgTable('batches', {
  id: text('id').primaryKey(), // batch_…
  projectId: text('project_id').notNull(),
  keyId: text('key_id').notNull(), // the key that created it
  endpoint: text('endpoint').notNull(),
  inputFileId: text('input_file_id').notNull(),
  completionWindow: text('completion_window').notNull(),
  metadata: jsonb('metadata').$type<Record<string, string> | null>(),
  outputExpiresSeconds: integer('output_expires_seconds'),
  status: text('status').notNull(),
  errors: jsonb('errors').$type<BatchLineError[] | null>(),
  model: text('model'),
  total: integer('total').notNull().default(0),
  completed: integer('completed').notNull().default(0),
  failed: integer('failed').notNull().default(0),
  inputTokens: bigint('input_tokens', { mode: 'number' }).notNull().default(0),
  cachedTokens: bigint('cached_tokens', { mode: 'number' }).notNull().default(0),
  outputTokens: bigint('output_tokens', { mode: 'number' }).notNull().default(0),
  outputFileId: text('output_file_id'),
  errorFileId: text('error_file_id'),
  createdAt: time('created_at').notNull(),
  expiresAt: time('expires_at').notNull(),
  inProgressAt: time('in_progress_at'),
  finalizingAt: time('finalizing_at'),
  completedAt: time('completed_at'),
  failedAt: time('failed_at'),
  expiredAt: time('expired_at'),
  cancellingAt: time('cancelling_at'),
  cancelledAt: time('cancelled_at'),
  // queue: written by the claim and the holder of the current epoch
  epoch: integer('epoch').notNull().default(0), // fencing token, +1 with every claim
  runnerId: text('runner_id'),
  leaseUntil: time('lease_until'),
  crashes: integer('crashes').notNull().default(0), // attempts that broke off without a new result
  runAfter: time('run_after').notNull(),
});

export const batchResults = pgTable(
  'batch_results',
  {
    projectId: text('project_id').notNull(),
    batchId: text('batch_id').notNull(),
    line: integer('line').notNull(),
    failed: boolean('failed').notNull(),
    record: text('record').notNull(), // the line of the output or error file
  },
  (t) => [primaryKey({ columns: [t.batchId, t.line] })],
);
