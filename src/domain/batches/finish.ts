/**
 * The end of a batch: requests that got no answer are written down as such, the answers become files in storage, and
 * one transaction makes the files exist and the batch end. Until then a file of a lost attempt is only bytes that
 * nothing refers to, removed by the next attempt.
 */
import { newId } from '../../ids.ts';
import type { Dependencies } from '../dependencies.ts';
import { insertFile } from '../files/repository.ts';
import { unansweredRecord } from './execute.ts';
import { type LinePlace, parseLine, readLines } from './input.ts';
import {
  addResults,
  endHeld,
  finalizeHeld,
  type Hold,
  type LineResult,
  type Outcome,
  recordsAfter,
} from './queue-repository.ts';
import type { BatchRow } from './repository.ts';

type Deps = Pick<Dependencies, 'database' | 'storage'>;

const PAGE = 200;
const UNANSWERED = {
  expired: ['batch_expired', 'This request could not be executed before the completion window expired.'],
  cancelled: ['batch_cancelled', 'This request was not executed because the batch was cancelled.'],
} as const;

/** Everything from the last answer to the batch's end. Throws HoldLost, and the reason of `left` when it is aborted. */
export async function finish(
  deps: Deps,
  hold: Hold,
  storageKey: string,
  unanswered: readonly LinePlace[],
  left: AbortSignal,
): Promise<Outcome> {
  const batch = await finalizeHeld(deps.database.db, hold);
  const outcome: Outcome =
    batch.status === 'cancelling' ? 'cancelled' : unanswered.length > 0 ? 'expired' : 'completed';
  if (outcome !== 'completed')
    await writeUnanswered(deps, hold, batch.endpoint, storageKey, unanswered, outcome, left);
  const folder = `projects/${hold.projectId}/batches/${hold.id}/`;
  await removeOlder(deps, hold, folder);
  const files = [
    await storeRecords(deps, hold, batch, `${folder}e${hold.epoch}/output.jsonl`, false, left),
    await storeRecords(deps, hold, batch, `${folder}e${hold.epoch}/errors.jsonl`, true, left),
  ] as const;
  left.throwIfAborted();
  await deps.database.transaction(async (tx) => {
    for (const file of files) if (file) await insertFile(tx, file);
    await endHeld(tx, hold, outcome, {
      outputFileId: files[0]?.id ?? null,
      errorFileId: files[1]?.id ?? null,
    });
  });
  return outcome;
}

/**
 * Removes what earlier holders left: they cannot end the batch any more. Newer ones may have ended it already if this
 * hold is lost, so their files are left alone.
 */
async function removeOlder({ storage }: Deps, hold: Hold, folder: string): Promise<void> {
  for await (const { key } of storage.list(folder)) {
    const epoch = /^e(\d+)\//.exec(key.slice(folder.length))?.[1];
    if (epoch !== undefined && Number(epoch) < hold.epoch) await storage.delete(key);
  }
}

async function writeUnanswered(
  deps: Deps,
  hold: Hold,
  endpoint: string,
  storageKey: string,
  unanswered: readonly LinePlace[],
  outcome: 'expired' | 'cancelled',
  left: AbortSignal,
): Promise<void> {
  const [code, message] = UNANSWERED[outcome];
  let results: LineResult[] = [];
  const write = async () => {
    left.throwIfAborted();
    const written = results;
    results = [];
    await deps.database.transaction((tx) => addResults(tx, hold, written));
  };
  for await (const [{ number }, bytes] of readLines(deps.storage, storageKey, unanswered)) {
    const request = parseLine(bytes, endpoint);
    if ('code' in request) continue; // a batch cancelled before it was validated
    results.push(unansweredRecord(number, request.customId, code, message));
    if (results.length >= PAGE) await write();
  }
  await write();
}

async function storeRecords(
  deps: Deps,
  hold: Hold,
  batch: BatchRow,
  key: string,
  failed: boolean,
  left: AbortSignal,
) {
  left.throwIfAborted();
  const first = await recordsAfter(deps.database.db, hold, failed, 0, 1);
  if (first.length === 0) return null;
  const { bytes, sha256 } = await deps.storage.put(key, recordLines(deps, hold, failed, left));
  return {
    id: newId('file-'),
    projectId: hold.projectId,
    ...{ bytes, sha256, storageKey: key },
    filename: `${batch.id}_${failed ? 'error' : 'output'}.jsonl`,
    purpose: 'batch_output',
    expiresAfterSeconds: batch.outputExpiresSeconds,
  };
}

async function* recordLines(
  deps: Deps,
  hold: Hold,
  failed: boolean,
  left: AbortSignal,
): AsyncGenerator<Uint8Array> {
  for (let line = 0; ; ) {
    left.throwIfAborted();
    const page = await recordsAfter(deps.database.db, hold, failed, line, PAGE);
    for (const { record } of page) yield Buffer.from(`${record}\n`);
    if (page.length < PAGE) return;
    line = page.at(-1)!.line;
  }
}
