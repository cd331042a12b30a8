/** Carries what an operation has written to storage. Knows files and storage; must not know what they are. */
import { createReadStream } from 'node:fs';
import { readdir, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import type { StoredFile } from '../../src/db/columns.ts';
import type { Storage } from '../../src/storage/storage.ts';

/** Stores the files of `folder` under `prefix`, by name, and removes each. @throws the signal's reason */
export async function putFolder(
  storage: Storage,
  prefix: string,
  folder: string,
  signal: AbortSignal,
): Promise<StoredFile[]> {
  const files: StoredFile[] = [];
  for (const name of (await readdir(folder)).sort()) {
    signal.throwIfAborted();
    const source = path.join(folder, name);
    const { size } = await stat(source);
    const stored = await storage.put(
      `${prefix}/${name}`,
      createReadStream(source, { highWaterMark: 1 << 20 }),
    );
    if (stored.bytes !== size) throw new Error(`${name} changed on its way to storage`);
    await rm(source); // room for the next operation as soon as may be
    files.push({ name, ...stored });
  }
  return files;
}
