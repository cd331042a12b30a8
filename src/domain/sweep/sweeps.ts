/**
 * Everything that is swept, in order. A sweep removes what nobody needs any more and can be cut off at any moment: the
 * next one goes on. Whatever keeps rows or objects for a time adds its line here.
 */

import { expireOperations, forgetOperations } from '../adapters/operations-repository.ts';
import { markFilesSwept, overFiles } from '../files/repository.ts';
import { deleteExpiredKeys } from '../idempotency/repository.ts';
import { cancelJobsOfArchived } from '../jobs/control.ts';
import { deletePart, endedParts, expireUploads, forgetUploads } from '../uploads/repository.ts';
import { removeEnded as removeEndedDeliveries } from '../webhooks/outbox-repository.ts';
import type { SweepContext } from './context.ts';
import { sweepObjects } from './objects.ts';

export interface Sweep {
  /** Shown in logs and by `lathe sweep`. */
  name: string;
  /** @returns how many things it removed */
  run(context: SweepContext): Promise<number>;
}

const BATCH = 500;
/** A completion of an Upload that began in time may go on for as long. */
const UPLOAD_GRACE_SECONDS = 3600;
/** Longer than any transaction that may still make use of a file that has just expired. */
const FILE_GRACE_SECONDS = 300;
/** Ended Uploads and operations can be looked up by their ids this long. */
const REMEMBERED_SECONDS = 30 * 24 * 3600;

const atMost = ({ config }: SweepContext, seconds: number) => Math.min(seconds, config.sweepGraceSeconds);

export const SWEEPS: Sweep[] = [
  {
    name: 'expired uploads',
    run: (context) => expireUploads(context.database.db, atMost(context, UPLOAD_GRACE_SECONDS)),
  },
  {
    name: 'webhooks delivered or given up',
    run: ({ database, config }) =>
      removeEndedDeliveries(database.db, REMEMBERED_SECONDS, config.maxWebhookDeliveries),
  },
  {
    name: 'jobs of archived projects',
    run: (context) => cancelJobsOfArchived(context, null, context.signal),
  },
  { name: 'expired idempotency keys', run: ({ database }) => deleteExpiredKeys(database.db) },
  { name: 'parts of ended uploads', run: sweepParts },
  { name: 'deleted and expired files', run: sweepFiles },
  { name: 'expired exports', run: ({ database }) => expireOperations(database.db) },
  { name: 'unreferenced objects', run: sweepObjects },
  {
    name: 'broken-off writes',
    run: ({ storage, config }) => storage.removeAbandoned(config.sweepGraceSeconds * 1000),
  },
  {
    name: 'rows of ended uploads',
    run: ({ database }) => forgetUploads(database.db, REMEMBERED_SECONDS),
  },
  {
    name: 'rows of ended exports and imports',
    run: ({ database }) => forgetOperations(database.db, REMEMBERED_SECONDS),
  },
];

/** Bytes first, then the row: a crash between them repeats the delete. */
async function sweepParts({ database, storage, signal }: SweepContext): Promise<number> {
  for (let removed = 0; ; ) {
    const parts = await endedParts(database.db, null, BATCH);
    for (const part of parts) {
      if (signal.aborted) return removed;
      await storage.delete(part.storageKey);
      await deletePart(database.db, part.projectId, part.id);
      removed++;
    }
    if (parts.length < BATCH) return removed;
  }
}

async function sweepFiles(context: SweepContext): Promise<number> {
  const { database, storage, signal } = context;
  for (let removed = 0; ; ) {
    const over = await overFiles(database.db, atMost(context, FILE_GRACE_SECONDS), BATCH);
    for (const file of over) {
      if (signal.aborted) return removed;
      await storage.delete(file.storageKey);
      await markFilesSwept(database.db, [file]);
      removed++;
    }
    if (over.length < BATCH) return removed;
  }
}
