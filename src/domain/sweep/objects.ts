/**
 * Compares storage with the database and removes objects that nothing refers to: what lost attempts left, checkpoints
 * and models that are over, results nobody can download any more. Young objects are left alone, since their rows may be
 * about to be written, and so is every key whose shape or project is not known here.
 */
import type { ListedObject } from '../../storage/storage.ts';
import type { SweepContext } from './context.ts';
import { judgeKeys } from './repository.ts';

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
  const done: Swept = { removed: 0, foreign: 0 };
  let batch: string[] = [];
  for await (const object of storage.list('projects/')) {
    if (signal.aborted) return done.removed;
    if (!KNOWN.test(object.key)) done.foreign++;
    else if (isOld(object, before)) batch.push(object.key);
    if (batch.length < BATCH) continue;
    await removeDead(context, batch, done);
    batch = [];
  }
  await removeDead(context, batch, done);
  if (done.foreign > 0)
    log.warn({ objects: done.foreign }, 'storage holds objects that are not ours; they are left alone');
  return done.removed;
}

interface Swept {
  removed: number;
  /** Of a shape or a project that is not known. */
  foreign: number;
}

const isOld = ({ modified }: ListedObject, before: number) => modified.getTime() < before;

async function removeDead(
  { database, storage, config, signal }: SweepContext,
  keys: readonly string[],
  done: Swept,
): Promise<void> {
  if (keys.length === 0) return;
  const { dead, foreign } = await judgeKeys(database.db, keys, config.sweepGraceSeconds);
  done.foreign += foreign;
  for (const key of dead) {
    if (signal.aborted) break;
    await storage.delete(key);
    done.removed++;
  }
}
