/**
 * Tables of tenancy beside organizations, projects and api_keys (schema.ts): service accounts, admin keys, limits, and
 * the keys that make a creation repeatable.
 */
import {
  boolean,
  doublePrecision,
  index,
  integer,
  pgTable,
  primaryKey,
  text,
  uniqueIndex,
} from 'drizzle-orm/pg-core';
import { createdAt, time } from './columns.ts';
import { organizations, projects } from './schema.ts';

/** Who a project key belongs to: there are no user accounts. The role bounds what its keys' scopes can grant. */
export const serviceAccounts = pgTable(
  'service_accounts',
  {
    id: text('id').notNull(), // svc_acct_…
    projectId: text('project_id')
      .notNull()
      .references(() => projects.id),
    name: text('name').notNull(),
    role: text('role').notNull(), // owner | member
    createdAt: createdAt(),
    deletedAt: time('deleted_at'),
  },
  (t) => [
    primaryKey({ columns: [t.projectId, t.id] }),
    uniqueIndex('service_accounts_id').on(t.id),
    index('service_accounts_list').on(t.projectId, t.createdAt, t.id),
  ],
);

/** Keys of the admin API; they open no project route. Only the sha256 of the secret is kept. */
export const adminApiKeys = pgTable(
  'admin_api_keys',
  {
    id: text('id').primaryKey(), // public part of the key, 12 characters
    organizationId: text('organization_id')
      .notNull()
      .references(() => organizations.id),
    name: text('name').notNull(),
    secretSha256: text('secret_sha256').notNull(),
    createdAt: createdAt(),
    expiresAt: time('expires_at'),
    revokedAt: time('revoked_at'),
    lastUsedAt: time('last_used_at'),
  },
  (t) => [index('admin_api_keys_list').on(t.organizationId, t.createdAt, t.id)],
);

/** Requests and tokens a minute of a project on a base model and all its tuned models. */
export const projectRateLimits = pgTable(
  'project_rate_limits',
  {
    projectId: text('project_id')
      .notNull()
      .references(() => projects.id),
    model: text('model').notNull(), // base model id
    maxRequests: integer('max_requests'), // null = the configured default, 0 = no limit
    maxTokens: integer('max_tokens'),
  },
  (t) => [primaryKey({ columns: [t.projectId, t.model] })],
);

/** What is left in the buckets of a limit at `updatedAt`; they fill continuously. Unlogged: a crash of Postgres fills them. */
export const rateLimitBuckets = pgTable(
  'rate_limit_buckets',
  {
    projectId: text('project_id')
      .notNull()
      .references(() => projects.id),
    model: text('model').notNull(),
    requests: doublePrecision('requests').notNull(),
    tokens: doublePrecision('tokens').notNull(),
    allowed: boolean('allowed').notNull(), // whether the last request was let in
    updatedAt: time('updated_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.projectId, t.model] })],
);

/**
 * One row a repeatable creation. While it runs, `heldUntil` is renewed by its holder (`holder` fences the others out);
 * when it has succeeded, the answer stands here until `expiresAt`.
 */
export const idempotencyKeys = pgTable(
  'idempotency_keys',
  {
    projectId: text('project_id').notNull(), // the organization's id where an admin key asks
    key: text('key').notNull(),
    fingerprint: text('fingerprint').notNull(), // sha256 of method, path and body
    seed: text('seed').notNull(), // what the new object's id is made from
    holder: text('holder').notNull(),
    heldUntil: time('held_until'),
    status: integer('status'), // null while it runs
    body: text('body'),
    createdAt: createdAt(),
    expiresAt: time('expires_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.projectId, t.key] }), index('idempotency_keys_expiry').on(t.expiresAt)],
);
