/**
 * Brings the database to the newest schema. Safe to run from many processes at once: an advisory lock lets one work
 * while the others wait and then find nothing to do.
 */
import path from 'node:path';
import { drizzle } from 'drizzle-orm/node-postgres';
import { migrate as applyMigrations } from 'drizzle-orm/node-postgres/migrator';
import { Client } from 'pg';
import { PROJECT_ROOT } from '../config.ts';

/** Applies what is missing from migrations/ to the first schema of the URL's search path. Throws when one fails. */
export async function migrate(url: string): Promise<void> {
  const client = new Client({
    connectionString: url,
    application_name: 'lathe migrate',
    connectionTimeoutMillis: 10_000,
  });
  await client.connect();
  try {
    const found = await client.query<{ name: string | null }>('select current_schema() as name');
    const schema = found.rows[0]?.name;
    if (!schema) throw new Error('The database has no schema to create tables in: its search_path is empty.');
    // A session lock: it goes with the connection, so a killed migration never blocks the next one.
    await client.query('select pg_advisory_lock(hashtextextended($1, 0))', [`lathe migrate ${schema}`]);
    await applyMigrations(drizzle(client), {
      migrationsFolder: path.join(PROJECT_ROOT, 'migrations'),
      migrationsSchema: schema,
      migrationsTable: 'lathe_migrations',
    });
  } finally {
    await client.end();
  }
}
