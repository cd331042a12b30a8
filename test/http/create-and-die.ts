/**
 * An API process that is killed after it has made a job and before it can answer: argv is the database's URL, the
 * storage folder, the API key, the Idempotency-Key and the request's body.
 */
import { createApp } from '../../src/app.ts';
import { loadConfig } from '../../src/config.ts';
import { openDatabase } from '../../src/db/client.ts';
import { createLog } from '../../src/log.ts';
import { openDiskStorage } from '../../src/storage/disk.ts';

const [databaseUrl = '', storageDir = '', apiKey = '', idempotencyKey = '', body = ''] =
  process.argv.slice(2);
const database = openDatabase(databaseUrl);
const transaction: typeof database.transaction = async (work) => {
  const made = await database.transaction(work);
  process.kill(process.pid, 'SIGKILL');
  return made;
};
const app = createApp({
  config: loadConfig({}, { databaseUrl }),
  database: { ...database, transaction },
  storage: await openDiskStorage(storageDir),
  log: createLog({ level: 'silent' }),
});
await app.request('/v1/fine_tuning/jobs', {
  method: 'POST',
  headers: {
    authorization: `Bearer ${apiKey}`,
    'content-type': 'application/json',
    'idempotency-key': idempotencyKey,
  },
  body,
});
