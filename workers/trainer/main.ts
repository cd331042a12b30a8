/**
 * Starts a trainer: `node workers/trainer/main.ts [--once]`. Reads the configuration, opens database and storage,
 * supervises until SIGTERM or SIGINT, then hands the running job over. With LATHE_TRAINER_DEVICES it starts one such
 * trainer per GPU instead.
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { childEnvironment, loadConfig } from '../../src/config.ts';
import { openDatabase } from '../../src/db/client.ts';
import { createLog } from '../../src/log.ts';
import { openStorage } from '../../src/storage/open.ts';
import { deviceList, runPerDevice } from './devices.ts';
import { parseFailpoint } from './failpoints.ts';
import { supervise } from './supervisor.ts';

const { values } = parseArgs({
  options: {
    once: { type: 'boolean', default: false },
    // Set by the process that starts one trainer per GPU: the one GPU that this trainer sees.
    device: { type: 'string' },
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
const { databaseUrl } = config;
const leave = new AbortController();
for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.on(signal, () => {
    if (!leave.signal.aborted) log.info({ signal }, 'told to leave: handing the running job over');
    leave.abort();
  });
}
// Without the process that started it, a trainer of one GPU hands its job over too.
if (values.device !== undefined && process.send) {
  process.on('disconnect', () => leave.abort());
  process.channel?.unref();
}
const devices =
  values.device === undefined
    ? deviceList(config.trainerDevices, childEnvironment(config).CUDA_VISIBLE_DEVICES)
    : [];
if (devices.length > 0) {
  log.info({ devices }, 'one trainer per GPU');
  await runPerDevice(devices, {
    program: fileURLToPath(import.meta.url),
    arguments: process.argv.slice(2),
    env: childEnvironment(config, { LATHE_DEVICE: 'cuda' }),
    drain: leave.signal,
    onDeath: (device, how, pause_ms) =>
      log.warn({ device, how, pause_ms }, 'a trainer ended; starting again'),
  });
} else await trainHere();

/** Claims jobs and runs them until told to leave. */
async function trainHere(): Promise<void> {
  const database = openDatabase(databaseUrl, {
    connections: config.databasePool,
    name: 'lathe trainer',
    onConnectionError: (error) => log.warn({ err: error.message }, 'a database connection broke'),
  });
  await supervise({
    config,
    database,
    log,
    storage: await openStorage(config),
    device: { kind: config.device, threads: config.threads },
    once: values.once || config.once,
    drain: leave.signal,
    failpoints: values.failpoint.map(parseFailpoint),
    deviceName: values.device === undefined ? config.device : `cuda:${values.device}`,
  });
  await database.close();
}
