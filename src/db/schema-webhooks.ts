/**
 * Tables of webhooks (who wants to hear of what, and the outbox of what is still to be told) and of checkpoints shared
 * between projects. Rows of the outbox are written by lathe_emit_webhook in the transaction that makes the event true.
 */
import { sql } from 'drizzle-orm';
import { integer, pgTable, text } from 'drizzle-orm/pg-core';
import { createdAt, time } from './columns.ts';

export const webhookEndpoints = pgTable('webhook_endpoints', {
  id: text('id').primaryKey(), // whe_…
  projectId: text('project_id').notNull(),
  name: text('name').notNull(),
  url: text('url').notNull(),
  eventTypes: text('event_types').array().notNull(),
  secret: text('secret').notNull(), // whsec_…, shown once; needed in full to sign
  oldSecret: text('old_secret'), // signs beside the new one until oldSecretUntil
  oldSecretUntil: time('old_secret_until'),
  failingSince: time('failing_since'), // first failure since the last success
  disabledAt: time('disabled_at'),
  createdAt: createdAt(),
  updatedAt: time('updated_at').notNull().default(sql`clock_timestamp()`),
  deletedAt: time('deleted_at'),
});

/** The outbox: one row an event and endpoint, tried until delivered or abandoned. */
export const webhookDeliveries = pgTable('webhook_deliveries', {
  id: text('id').primaryKey(), // whd_…
  endpointId: text('endpoint_id').notNull(),
  projectId: text('project_id').notNull(),
  eventId: text('event_id').notNull(), // evt_…, the same for every endpoint and attempt
  eventType: text('event_type').notNull(),
  body: text('body').notNull(), // the signed bytes: equal in every attempt
  attempts: integer('attempts').notNull().default(0),
  nextAttemptAt: time('next_attempt_at').notNull().default(sql`clock_timestamp()`),
  takenUntil: time('taken_until'), // an attempt is under way; past: its process died
  lastStatus: integer('last_status'),
  lastError: text('last_error'),
  createdAt: createdAt(),
  deliveredAt: time('delivered_at'),
  abandonedAt: time('abandoned_at'),
});

/** `projectId` may use `model`, which belongs to `ownerProjectId` of the same organization. */
export const checkpointPermissions = pgTable('checkpoint_permissions', {
  id: text('id').primaryKey(), // cp_…
  ownerProjectId: text('owner_project_id').notNull(),
  model: text('model').notNull(),
  projectId: text('project_id').notNull(),
  createdAt: createdAt(),
});
