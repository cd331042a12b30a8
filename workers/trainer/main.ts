/**
 * Starts a trainer: `node workers/trainer/main.ts [--once]`. Reads the configuration, opens database and storage,
 * supervises until SIGTERM or SIGINT, then hands the running job over.
 */
import { parseArgs } from 'node:util';
import { loadConfig } from '../../src/config.ts';
import { openDatabase } from '../../src/db/client.ts';
import { createLog } from '../../src/log.ts';
import { openStorage } from '../../src/storage/storage.ts';
import { parseFailpoint } from './failpoints.ts';
import { supervise } from './supervisor.ts';

const { values } = parseArgs({
  options: {
    once: { type: 'boolean', default: false },
    // For tests; see failpoints.ts.
    failpoint: { type: 'string', multiple: true, default: [] },
  },
});

const config = loadConfig();
const log = createLog({ level: config.logLevel, name: 'trainer' });
if (config.databaseUrl === null) {
  throw new Error(
    'DATABASE_URL is not set. A trainer of its own needs the database of the service; `npm start` runs all.',
  );
}
const database = openDatabase(config.databaseUrl, {
  connections: config.databasePool,
  name: 'lathe trainer',
  onConnectionError: (error) => log.warn({ err: error.message }, 'a database connection broke'),
});
const leave = new AbortController();
for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.on(signal, () => {
    if (!leave.signal.aborted) log.info({ signal }, 'told to leave: handing the running job over');
    leave.abort();
  });
}
await supervise({
  config,
  database,
  log,
  storage: await openStorage(config),
  device: { kind: config.device, threads: config.threads },
  once: values.once || config.once,
  drain: leave.signal,
  failpoints: values.failpoint.map(parseFailpoint),
});
await database.close();
