/** What tables share: times are `timestamptz` written by the database's clock, and the list of files under a prefix. */
import { sql } from 'drizzle-orm';
import { timestamp } from 'drizzle-orm/pg-core';

export const time = (name: string) => timestamp(name, { withTimezone: true, mode: 'date' });
export const createdAt = () => time('created_at').notNull().default(sql`clock_timestamp()`);

/** One object of a folder in storage, with what a reader verifies it by. */
export interface StoredFile {
  name: string;
  bytes: number;
  sha256: string;
}
