/**
 * Compares storage with the database and removes objects that nothing refers to: what lost attempts left, checkpoints
 * and models that are over, results nobody can download any more. Young objects are left alone, since their rows may be
 * about to be written, and so is every key whose shape is not known here.
 */
import type { ListedObject } from '../../storage/storage.ts';
import { liveKeys } from './repository.ts';
import type { SweepContext } from './sweeps.ts';

/** Every shape of key that this service writes; see the callers of storage.put. */
const KNOWN = new RegExp(
  `^projects/[^/]+/(${[
    'files/[^/]+',
    'uploads/[^/]+/[^/]+',
    'jobs/[^/]+/e\\d+/[^/]+/[^/]+',
    'batches/[^/]+/e\\d+/[^/]+',
    'imports/[^/]+/[^/]+',
    'adapters/[^/]+/e\\d+/[^/]+',
    'exports/[^/]+/e\\d+/[^/]+',
  ].join('|')})$`,
);
const BATCH = 1000;

/** @returns how many objects were removed */
export async function sweepObjects(context: SweepContext): Promise<number> {
  const { storage, config, log, signal } = context;
  const before = Date.now() - config.sweepGraceSeconds * 1000;
  let [removed, unknown] = [0, 0];
  let batch: string[] = [];
  for await (const object of storage.list('projects/')) {
    if (signal.aborted) return removed;
    if (!KNOWN.test(object.key)) unknown++;
    else if (isOld(object, before)) batch.push(object.key);
    if (batch.length < BATCH) continue;
    removed += await removeDead(context, batch);
    batch = [];
  }
  removed += await removeDead(context, batch);
  if (unknown > 0)
    log.warn({ objects: unknown }, 'storage holds objects that are not ours; they are left alone');
  return removed;
}

const isOld = ({ modified }: ListedObject, before: number) => modified.getTime() < before;

async function removeDead(
  { database, storage, config, signal }: SweepContext,
  keys: readonly string[],
): Promise<number> {
  if (keys.length === 0) return 0;
  const live = await liveKeys(database.db, keys, config.sweepGraceSeconds);
  let removed = 0;
  for (const key of keys) {
    if (live.has(key)) continue;
    if (signal.aborted) break;
    await storage.delete(key);
    removed++;
  }
  return removed;
}
