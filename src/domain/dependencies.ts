/**
 * What use cases work with. Handed in by the caller, so tests pass their own database, storage and log.
 */
import type { Config } from '../config.ts';
import type { Database } from '../db/client.ts';
import type { Log } from '../log.ts';
import type { Storage } from '../storage/storage.ts';

export { StorageUnavailable } from '../storage/storage.ts';

export interface Dependencies {
  config: Config;
  database: Database;
  storage: Storage;
  log: Log;
}
