/** How a command gets at the database: the configured one, the running embedded one, or one started for the moment. */
import type { Config } from '../config.ts';
import { type Database, openDatabase } from '../db/client.ts';
import { migrate } from '../db/migrate.ts';
import { runningPostgresUrl, startEmbeddedPostgres } from '../embedded/postgres.ts';
import { lockHome } from './home-lock.ts';

/** The URL of a database that is up, or null when there is only an embedded one that does not run. */
export function reachableDatabaseUrl(config: Config): string | null {
  return config.databaseUrl ?? runningPostgresUrl(config.home);
}

/**
 * Runs `work` with a migrated database. An embedded one that was not running is stopped again afterwards; where its
 * files lie is told to `say` when it is not under the home.
 */
export async function withDatabase<T>(
  config: Config,
  command: string,
  work: (database: Database) => Promise<T>,
  say: (line: string) => void = () => {},
): Promise<T> {
  const url = reachableDatabaseUrl(config);
  if (url !== null) return useDatabase(url, work);
  const lock = lockHome(config.home, command);
  try {
    const postgres = await startEmbeddedPostgres({ home: config.home });
    if (postgres.note) say(postgres.note);
    try {
      return await useDatabase(postgres.url, work);
    } finally {
      await postgres.stop();
    }
  } finally {
    lock.release();
  }
}

async function useDatabase<T>(url: string, work: (database: Database) => Promise<T>): Promise<T> {
  await migrate(url);
  const database = openDatabase(url, { connections: 2, name: 'lathe cli' });
  try {
    return await work(database);
  } finally {
    await database.close();
  }
}
