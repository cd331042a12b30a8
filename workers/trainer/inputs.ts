/**
 * Brings an attempt's inputs to its scratch folder: data files, the weights it starts from and the newest checkpoint.
 * Every byte is checked against the sha256 in the database; what does not match is not used.
 */
import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { StoredFile } from '../../src/db/columns.ts';
import type { StartWeights } from '../../src/db/schema-jobs.ts';
import { ObjectNotFound, type Storage } from '../../src/storage/storage.ts';
import { CheckpointDamaged, MANIFEST, verifyFolder } from './checkpoint.ts';

/** An object in storage is gone or is not what was stored. */
export class StoredObjectDamaged extends Error {
  override name = 'StoredObjectDamaged';
}

/** Copies one object to a file. @throws StoredObjectDamaged when it is missing or differs from `expected`. */
export async function fetchObject(
  storage: Storage,
  key: string,
  target: string,
  expected: { bytes: number; sha256: string } | null,
): Promise<void> {
  const hash = createHash('sha256');
  let bytes = 0;
  const measure = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      bytes += chunk.byteLength;
      done(null, chunk);
    },
  });
  try {
    await pipeline(await storage.get(key), measure, createWriteStream(target, { flags: 'w', mode: 0o600 }));
  } catch (error) {
    if (error instanceof ObjectNotFound)
      throw new StoredObjectDamaged(`${path.basename(target)} is not in storage`);
    throw error;
  }
  if (expected && (bytes !== expected.bytes || hash.digest('hex') !== expected.sha256)) {
    throw new StoredObjectDamaged(`${path.basename(target)} in storage is not what was stored there`);
  }
}

/** Copies the tuned model that a training starts from. @returns its folder. @throws StoredObjectDamaged */
export async function fetchStartWeights(
  storage: Storage,
  start: StartWeights,
  scratch: string,
): Promise<string> {
  const dir = path.join(scratch, 'start');
  await mkdir(dir, { recursive: true });
  for (const file of start.files) {
    await fetchObject(storage, `${start.storage_prefix}/${file.name}`, path.join(dir, file.name), file);
  }
  return dir;
}

export interface CheckpointChoice<Row> {
  /** The newest whole checkpoint, or null: start from the beginning. */
  chosen: { row: Row; dir: string } | null;
  /** Newer ones that could not be read back, with the reason. */
  damaged: { row: Row; reason: string }[];
}

/**
 * The newest checkpoint whose files all match; damaged ones are passed over.
 * @param rows the job's checkpoints, newest first
 */
export async function fetchNewestCheckpoint<
  Row extends { step: number; storagePrefix: string; files: readonly StoredFile[] },
>(storage: Storage, rows: readonly Row[], scratch: string): Promise<CheckpointChoice<Row>> {
  const damaged: { row: Row; reason: string }[] = [];
  for (const row of rows) {
    const dir = path.join(scratch, `resume-${row.step}`);
    try {
      await mkdir(dir, { recursive: true });
      for (const file of row.files) {
        await fetchObject(storage, `${row.storagePrefix}/${file.name}`, path.join(dir, file.name), file);
      }
      await fetchObject(storage, `${row.storagePrefix}/${MANIFEST}`, path.join(dir, MANIFEST), null);
      await verifyFolder(dir);
      return { chosen: { row, dir }, damaged };
    } catch (error) {
      if (!(error instanceof StoredObjectDamaged || error instanceof CheckpointDamaged)) throw error;
      damaged.push({ row, reason: error.message });
      await rm(dir, { recursive: true, force: true });
    }
  }
  return { chosen: null, damaged };
}
