/**
 * Connections to Postgres: one pool for requests and a small one for leases, so that a flood of requests can never
 * stop a heartbeat. Knows no table's meaning.
 */
import { DrizzleQueryError } from 'drizzle-orm';
import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres';
import { Pool, type PoolConfig } from 'pg';

export type Drizzle = NodePgDatabase;
export type Transaction = Parameters<Parameters<Drizzle['transaction']>[0]>[0];
/** What a query needs: the database or an open transaction. */
export type Queryable = Drizzle | Transaction;

export interface Database {
  readonly url: string;
  readonly db: Drizzle;
  readonly pool: Pool;
  /** Two connections of their own, for claims, heartbeats and releases. */
  readonly leases: Drizzle;
  /** Runs `work` in one transaction: all of it or nothing; an error rolls back and is thrown on. */
  transaction<T>(work: (tx: Transaction) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

export interface DatabaseOptions {
  /** Connections for ordinary queries. */
  connections?: number;
  /** Shown in pg_stat_activity. */
  name?: string;
  /** Called when a connection breaks, idle or within a transaction; the pool replaces it by itself. */
  onConnectionError?: (error: Error) => void;
}

/** Opens the pools; nothing is connected before the first query. `url` may carry `options=-c search_path=…`. */
export function openDatabase(url: string, options: DatabaseOptions = {}): Database {
  const shared: PoolConfig = {
    connectionString: url,
    application_name: options.name ?? 'lathe',
    connectionTimeoutMillis: 5_000,
    idleTimeoutMillis: 30_000,
    statement_timeout: 30_000,
    lock_timeout: 10_000,
    idle_in_transaction_session_timeout: 30_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
  };
  // query_timeout runs here, not in the server: without it a host that vanished would be waited for for many minutes.
  const pool = new Pool({ ...shared, max: options.connections ?? 10, query_timeout: 35_000 });
  const leasePool = new Pool({ ...shared, max: 2, statement_timeout: 10_000, query_timeout: 10_000 });
  for (const each of [pool, leasePool]) {
    // Between two queries of a transaction a broken connection is told to its client alone, and an error that nobody
    // hears ends the process. The next query fails with it.
    each.on('connect', (client) => client.on('error', (error) => options.onConnectionError?.(error)));
    each.on('error', () => {}); // the same error again, of an idle client
  }
  const db = drizzle(pool);
  return {
    url,
    db,
    pool,
    leases: drizzle(leasePool),
    transaction: (work) => inTransaction(pool, work),
    close: async () => {
      await Promise.all([pool.end(), leasePool.end()]);
    },
  };
}

/**
 * Drizzle's own way to borrow a client keeps it for ever when `begin` fails, and gives one back that still waits for
 * an answer. Here a client whose query failed is closed instead.
 */
async function inTransaction<T>(pool: Pool, work: (tx: Transaction) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  let failed = false;
  try {
    return await drizzle(client).transaction(work);
  } catch (error) {
    failed = error instanceof DrizzleQueryError;
    throw error;
  } finally {
    client.release(failed);
  }
}
