/**
 * One process of the service on its own, as in production: it needs a database, and a worker token that the others
 * know too. The API runs in this process; a worker replaces it.
 */
import path from 'node:path';
import { type Config, ConfigError, childEnvironment, loadConfig, PROJECT_ROOT } from '../config.ts';
import { openDatabase } from '../db/client.ts';
import { registerBaseModels } from '../domain/base-models/register.ts';
import { createLog } from '../log.ts';
import { nodeFlags } from './child.ts';
import { reachableDatabaseUrl } from './database.ts';

/** Serves until SIGTERM or SIGINT, then drains. Tells a parent with an IPC channel where it listens. */
export async function runApi(): Promise<number> {
  const config = standalone(loadConfig());
  requireSharedToken(config);
  const log = createLog({ level: config.logLevel, name: 'api' });
  const { startServer } = await import('../server.ts'); // a worker's host has no HTTP stack
  const server = await startServer(config, log);
  log.info({ url: server.url }, 'listening');
  process.send?.({ listening: server.url });
  await new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve());
  });
  log.info('draining');
  await server.close();
  return 0;
}

/** Registers this machine's base models, then becomes the worker's program; does not come back. */
export async function becomeWorker(
  kind: 'trainer' | 'inference',
  changes: Record<string, string>,
  say: (line: string) => void,
): Promise<never> {
  const config = standalone(loadConfig());
  if (kind === 'inference') requireSharedToken(config);
  const database = openDatabase(config.databaseUrl, { connections: 1, name: 'lathe cli' });
  const baseModels = await registerBaseModels(config, database, (reason) => say(`Left out: ${reason}`));
  await database.close();
  const program = path.join(PROJECT_ROOT, 'workers', kind, 'main.ts');
  const env = childEnvironment({ ...config, baseModels }, changes);
  if (!process.execve) throw new Error('This Node cannot replace its process (process.execve is missing).');
  return process.execve(
    process.execPath,
    [process.execPath, ...nodeFlags({ endWithParent: false }), program],
    env,
  );
}

function standalone(config: Config): Config & { databaseUrl: string } {
  const databaseUrl = reachableDatabaseUrl(config);
  if (databaseUrl === null) {
    throw new ConfigError('There is no database: set DATABASE_URL, or start everything with `lathe up`.');
  }
  return { ...config, databaseUrl };
}

function requireSharedToken(config: Config): void {
  if (config.workerTokenShared) return;
  throw new ConfigError('LATHE_WORKER_TOKEN is not set: the API and its inference workers must share one.');
}
