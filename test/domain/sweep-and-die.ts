/**
 * A process that sweeps and is killed in the middle: argv is the database's URL, the storage folder and after how many
 * deletes it dies.
 */
import { loadConfig } from '../../src/config.ts';
import { openDatabase } from '../../src/db/client.ts';
import { sweepOnce } from '../../src/domain/sweep/run.ts';
import { createLog } from '../../src/log.ts';
import { openDiskStorage } from '../../src/storage/disk.ts';

const [databaseUrl = '', storageDir = '', deletes = ''] = process.argv.slice(2);
const disk = await openDiskStorage(storageDir);
let left = Number(deletes);
const storage = {
  ...disk,
  delete: async (key: string) => {
    await disk.delete(key);
    left -= 1;
    if (left === 0) process.kill(process.pid, 'SIGKILL');
  },
};
await sweepOnce({
  config: loadConfig({}, { databaseUrl }),
  database: openDatabase(databaseUrl),
  storage,
  log: createLog({ level: 'silent' }),
});
