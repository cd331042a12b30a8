/**
 * Carries committed checkpoint folders to storage and makes them exist with a fenced row, one after the other, beside
 * the training. Storage keys carry the epoch and are never reused: a zombie's uploads are garbage nobody refers to.
 */
import { createReadStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import path from 'node:path';
import type { Database } from '../../src/db/client.ts';
import type { StoredFile } from '../../src/db/columns.ts';
import type { Log } from '../../src/log.ts';
import { type Fence, message, recordCheckpoint } from '../../src/queue/queue.ts';
import { type Storage, StorageUnavailable } from '../../src/storage/storage.ts';
import { digestOf, MANIFEST, modelFilesOf, verifyFolder } from './checkpoint.ts';
import type { Failpoints } from './failpoints.ts';
import type { CheckpointSaved } from './messages.ts';
import type { ProgressWriter } from './progress.ts';
import { untilDone } from './retry.ts';

/** The user hears of an upload that has been tried for about six seconds. */
const TELL_AT_WAIT_MS = 3000;

export interface UploaderParts {
  database: Database;
  storage: Storage;
  fence: Fence;
  /** `projects/<project>/jobs/<job>/e<epoch>` */
  prefix: string;
  /** Name of the checkpoint of a step, as a model. */
  nameOf: (step: number) => string;
  progress: ProgressWriter;
  signal: AbortSignal;
  failpoints: Failpoints;
  log: Log;
  onStored: (step: number) => void;
}

/** Puts one local file; the store must have received what the manifest says. */
export async function putFile(
  storage: Storage,
  key: string,
  source: string,
  expected: StoredFile,
): Promise<void> {
  const stored = await storage.put(key, createReadStream(source, { highWaterMark: 1 << 20 }));
  if (stored.bytes !== expected.bytes || stored.sha256 !== expected.sha256) {
    throw new Error(`${expected.name} changed on its way to storage`);
  }
}

export class CheckpointUploader {
  readonly #parts: UploaderParts;
  #turn: Promise<void> = Promise.resolve();
  /** The newest stored folder; it stays on the disk, for the last one becomes the model. */
  #last: { dir: string; step: number; files: StoredFile[] } | null;

  /** @param resumed the checkpoint that this attempt starts from */
  constructor(parts: UploaderParts, resumed: { dir: string; step: number; files: StoredFile[] } | null) {
    this.#parts = parts;
    this.#last = resumed;
  }

  get last() {
    return this.#last;
  }

  /** Takes a committed folder; resolves when it is stored and recorded. */
  add(saved: CheckpointSaved): Promise<void> {
    const done = this.#turn.then(() => this.#store(saved));
    this.#turn = done;
    this.#turn.catch(() => {});
    return done;
  }

  /** Resolves when everything added is recorded. */
  drained(): Promise<void> {
    return this.#turn;
  }

  async #store(saved: CheckpointSaved): Promise<void> {
    const { database, storage, fence, progress, signal, failpoints, log } = this.#parts;
    const { files } = await verifyFolder(saved.dir);
    const storagePrefix = `${this.#parts.prefix}/ckpt-${saved.step}`;
    let isTold = false;
    const retry = <T>(work: () => Promise<T>) =>
      untilDone(signal, work, (err, wait_ms) => {
        log.warn({ err, wait_ms }, 'storage did not take a checkpoint; trying again');
        if (isTold || wait_ms < TELL_AT_WAIT_MS) return;
        isTold = true;
        const why = err instanceof StorageUnavailable && err.full ? 'has no room' : 'cannot be reached';
        const text = `The storage ${why}: the checkpoint of step ${saved.step} waits, and training goes on`;
        progress.add(message('warn', text, { code: 'storage_unavailable', step: saved.step }));
      });
    for (const file of files) {
      await retry(() =>
        putFile(storage, `${storagePrefix}/${file.name}`, path.join(saved.dir, file.name), file),
      );
    }
    await retry(() =>
      storage.put(`${storagePrefix}/${MANIFEST}`, createReadStream(path.join(saved.dir, MANIFEST))),
    );
    failpoints.hit(`upload.${saved.step}.before_row`);
    // The last checkpoint is announced by the publish, under the model's own name; until then it only serves a resume.
    const offered = saved.kind === 'epoch' && !saved.isLast;
    const { retired } = await progress.inTurn(() =>
      recordCheckpoint(database, fence, {
        kind: offered ? 'epoch' : 'state',
        step: saved.step,
        modelName: offered ? this.#parts.nameOf(saved.step) : null,
        storagePrefix,
        files,
        digest: digestOf(modelFilesOf(files)),
        metrics: saved.metrics,
      }),
    );
    failpoints.hit(`upload.${saved.step}.after_row`);
    log.info(
      { step: saved.step, kind: saved.kind, bytes: files.reduce((sum, f) => sum + f.bytes, 0) },
      'checkpoint stored',
    );
    if (this.#last) await rm(this.#last.dir, { recursive: true, force: true });
    this.#last = { dir: saved.dir, step: saved.step, files };
    this.#parts.onStored(saved.step);
    await removeRetired(storage, retired, log);
  }
}

/** Deletes what no row refers to any more. Failing leaves garbage, which is no reason to end a job. */
export async function removeRetired(storage: Storage, prefixes: readonly string[], log: Log): Promise<void> {
  for (const prefix of prefixes) {
    try {
      for await (const { key } of storage.list(`${prefix}/`)) await storage.delete(key);
    } catch (error) {
      log.warn({ err: error, prefix }, 'a retired checkpoint could not be removed from storage');
    }
  }
}
