/** Opens the storage that the configuration names. The one place that knows both kinds. */
import type { StorageConfig } from '../config.ts';
import { openDiskStorage } from './disk.ts';
import type { Storage } from './storage.ts';

export async function openStorage(config: { storage: StorageConfig }): Promise<Storage> {
  if (config.storage.kind === 'disk') return openDiskStorage(config.storage.dir);
  const { openS3Storage } = await import('./s3.ts'); // the SDK costs memory that the disk default need not pay
  return openS3Storage(config.storage);
}
