/**
 * The API in a process of its own, so that its memory can be watched: argv is the database's URL and the storage folder.
 * Tells its port, then its resident memory (now and at most, in bytes) whenever it is asked.
 */
import { createApp } from '../../src/app.ts';
import { loadConfig } from '../../src/config.ts';
import { openDatabase } from '../../src/db/client.ts';
import { createLog } from '../../src/log.ts';
import { listen } from '../../src/server.ts';
import { openDiskStorage } from '../../src/storage/disk.ts';

const [databaseUrl = '', storageDir = ''] = process.argv.slice(2);
const deps = {
  config: loadConfig({}, { databaseUrl }),
  database: openDatabase(databaseUrl),
  storage: await openDiskStorage(storageDir),
  log: createLog({ level: 'silent' }),
};
let most = 0;
setInterval(() => {
  most = Math.max(most, process.memoryUsage.rss());
}, 20);
const server = await listen(createApp(deps).fetch as never, { host: '127.0.0.1', port: 0 });
process.send?.({ url: server.url });
process.on('message', () => {
  const now = process.memoryUsage.rss();
  process.send?.({ now, most: Math.max(most, now) });
  most = now;
});
process.on('disconnect', () => process.exit());
