/** Chat completions that their callers asked to keep (`store: true`), with what was asked. */
import { type SQL, sql } from 'drizzle-orm';
import { bigint, json, jsonb, pgTable, text } from 'drizzle-orm/pg-core';
import { time } from './columns.ts';

export const chatCompletions = pgTable('chat_completions', {
  id: text('id').primaryKey(), // chatcmpl-…
  projectId: text('project_id').notNull(),
  model: text('model').notNull(),
  createdAt: time('created_at').notNull(),
  metadata: jsonb('metadata').$type<Record<string, string> | null>(),
  /** The messages that were asked, apart because lists do not show them; json because text may hold U+0000. */
  request: json('request').$type<Record<string, unknown>>().notNull(),
  /** The answer, with the parameters of the request that are shown beside it. */
  completion: json('completion').$type<Record<string, unknown>>().notNull(),
  /** What the three above take; counts with the bytes of the project. */
  bytes: bigint('bytes', { mode: 'number' })
    .notNull()
    .generatedAlwaysAs(
      (): SQL =>
        sql`octet_length(request::text) + octet_length(completion::text) + coalesce(octet_length(metadata::text), 0)`,
    ),
});
