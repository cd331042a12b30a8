/**
 * Works on models beside serving them: claims imports and exports of the base model that this worker has, lets a
 * process of its own do each, and writes the result under the hold it has on the operation. One at a time, in a folder
 * that is empty afterwards.
 */
import { fork } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { nodeFlags } from '../../src/commands/child.ts';
import type { BaseModelSource, Config } from '../../src/config.ts';
import type { Database } from '../../src/db/client.ts';
import {
  claimOperation,
  failOperation,
  finishExport,
  finishImport,
  type OperationFence,
  releaseOperation,
  renewOperation,
} from '../../src/domain/adapters/operations-queue-repository.ts';
import { CLAIMS_MAX, type OperationRow } from '../../src/domain/adapters/operations-repository.ts';
import { BASE_MODEL_CHANGED, baseModelChanged } from '../../src/errors.ts';
import { newId } from '../../src/ids.ts';
import type { Log } from '../../src/log.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { baseDigestFolder, digestBase } from '../base-digest.ts';
import { openProcessFolder } from '../process-folder.ts';
import { digestOf } from '../trainer/checkpoint.ts';
import { fetchObject, StoredObjectDamaged } from '../trainer/inputs.ts';
import type { OperationAnswer, OperationRequest } from './messages.ts';
import { putFolder } from './put-folder.ts';

export interface OperationsParts {
  config: Pick<Config, 'home' | 'threads' | 'pollMilliseconds' | 'exportSeconds'>;
  database: Database;
  storage: Storage;
  baseModel: BaseModelSource;
  /** Which files of it this worker holds (base-digest.ts). */
  baseDigest: string;
  log: Log;
  /** How long the process of an operation may take; DEADLINE_MS unless given. */
  deadlineMs?: Record<'import' | 'export', number>;
}

const LEASE_SECONDS = 60;
const RENEW_MS = 15_000;
/** Reading an adapter takes seconds; a pattern that never ends is cut off. Merging reads and writes a whole model. */
const DEADLINE_MS = { import: 30_000, export: 3_600_000 } as const;
const ADAPTER_FILES = /^(adapter_config\.json|adapter_model\.safetensors)$/;

/** The adapter cannot be used; the message is for whoever sent it. */
class Refused extends Error {
  override name = 'Refused';
}

/** The model to export was trained on other files of the base model. */
class BaseChanged extends Error {
  override name = 'BaseChanged';
}

/** The process of the operation ended without a word: the adapter may have been too much for it. */
class ChildDied extends Error {
  override name = 'ChildDied';
}

/** Starts looking for operations; `stop` gives a running one back and waits. */
export async function startOperations(parts: OperationsParts): Promise<{ stop(): Promise<void> }> {
  const leave = new AbortController();
  const folder = await openProcessFolder(path.join(parts.config.home, 'cache', 'operations'));
  const running = work(parts, folder, leave.signal).finally(() =>
    rm(folder, { recursive: true, force: true }),
  );
  return {
    stop: () => {
      leave.abort(new Error('the worker is leaving'));
      return running;
    },
  };
}

async function work(parts: OperationsParts, folder: string, leave: AbortSignal): Promise<void> {
  const { config, database, log } = parts;
  const workerId = newId('worker_');
  const base = { id: parts.baseModel.id, digest: parts.baseDigest };
  while (!leave.aborted) {
    try {
      const row = await claimOperation(database.db, workerId, base, LEASE_SECONDS);
      if (row) {
        await perform(
          parts,
          row,
          { id: row.id, epoch: row.epoch, workerId },
          path.join(folder, row.id),
          leave,
        );
        continue;
      }
    } catch (err) {
      log.warn({ err }, 'an import or export could not go on; it is tried again');
    }
    await sleep(config.pollMilliseconds, undefined, { signal: leave }).catch(() => {}); // woken: the loop ends
  }
}

/** One claimed operation to its end: succeeded, failed, given back, or lost to another worker. */
async function perform(
  parts: OperationsParts,
  row: OperationRow,
  fence: OperationFence,
  folder: string,
  leave: AbortSignal,
): Promise<void> {
  const { database, log } = parts;
  const lost = new AbortController();
  const renewal = setInterval(() => {
    renewOperation(database.db, fence, LEASE_SECONDS).then(
      (held) => held || lost.abort(new Error('the operation was taken back')),
      (err: unknown) => log.warn({ err, operation: row.id }, 'a lease could not be renewed'),
    );
  }, RENEW_MS);
  const started = performance.now();
  try {
    const done = await carryOut(parts, row, fence, folder, AbortSignal.any([leave, lost.signal]));
    if (done) await removeInput(parts, row);
    log.info({ operation: row.id, done, seconds: (performance.now() - started) / 1000 }, 'operation ended');
  } catch (error) {
    if (leave.aborted) await releaseOperation(database.db, fence);
    else if (!lost.signal.aborted && (await fail(parts, row, fence, error))) await removeInput(parts, row);
  } finally {
    clearInterval(renewal);
    await rm(folder, { recursive: true, force: true });
  }
}

/** @returns whether the result was written: false when the hold was lost. */
async function carryOut(
  { config, database, storage, baseModel, log, deadlineMs = DEADLINE_MS }: OperationsParts,
  row: OperationRow,
  fence: OperationFence,
  folder: string,
  signal: AbortSignal,
): Promise<boolean> {
  const kind = row.kind as 'import' | 'export';
  const [adapterDir, outDir] = [path.join(folder, 'adapter'), path.join(folder, 'out')];
  await rm(folder, { recursive: true, force: true });
  await mkdir(adapterDir, { recursive: true });
  const base = await digestBase(
    baseModel.location,
    baseDigestFolder(config.home),
    (err) => log.warn({ err }, 'the digest of the base model could not be remembered'),
    signal,
  );
  if (row.baseDigest !== null && row.baseDigest !== base.digest)
    throw new BaseChanged(`${row.modelId} was trained on ${row.baseDigest}, here is ${base.digest}`);
  for (const file of row.inputFiles.filter(({ name }) => ADAPTER_FILES.test(name))) {
    signal.throwIfAborted();
    await fetchObject(storage, `${row.inputPrefix}/${file.name}`, path.join(adapterDir, file.name), file);
  }
  const request = { kind, baseDir: baseModel.location, baseModel: baseModel.id, adapterDir, outDir };
  const threads = kind === 'import' ? 1 : config.threads;
  await inProcess({ ...request, threads }, deadlineMs[kind], signal);
  await base.verify();
  const area = kind === 'import' ? 'adapters' : 'exports';
  const storagePrefix = `projects/${row.projectId}/${area}/${row.id}/e${fence.epoch}`;
  const files = await putFolder(storage, storagePrefix, outDir, signal);
  return kind === 'import'
    ? finishImport(database, fence, {
        ...{ storagePrefix, files, digest: digestOf(files) },
        baseDigest: base.digest,
      })
    : finishExport(database.db, fence, { storagePrefix, files }, config.exportSeconds);
}

/** Runs child.ts to its answer. @throws Refused, ChildDied, or the signal's reason. */
async function inProcess(request: OperationRequest, deadlineMs: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted(); // one that is aborted already would never end the child
  const entry = fileURLToPath(new URL('./child.ts', import.meta.url));
  const child = fork(entry, [], {
    execArgv: nodeFlags({ endWithParent: true }),
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  let answer: OperationAnswer | null = null;
  let complaint = '';
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    complaint = (complaint + text).slice(-2000);
  });
  child.on('message', (message: OperationAnswer) => {
    answer = message;
  });
  const enough = AbortSignal.any([signal, AbortSignal.timeout(deadlineMs)]);
  const kill = () => child.kill('SIGKILL');
  enough.addEventListener('abort', kill);
  child.send(request);
  const [code, killedBy] = await new Promise<[number | null, string | null]>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (...end) => resolve(end));
  }).finally(() => enough.removeEventListener('abort', kill));
  signal.throwIfAborted();
  if (enough.aborted && request.kind === 'import') throw new Refused('reading it took too long');
  const said = answer as OperationAnswer | null;
  if (said?.type === 'refused') throw new Refused(said.message);
  if (said?.type !== 'done' || code !== 0)
    throw new ChildDied(`the process ended with ${killedBy ?? code} and no answer: ${complaint}`);
}

/**
 * Says what became of it. What is nobody's fault stays in the log and is tried again when the lease has run out.
 * @returns whether the operation has ended
 */
async function fail(
  { database, log }: OperationsParts,
  row: OperationRow,
  fence: OperationFence,
  error: unknown,
): Promise<boolean> {
  if (error instanceof Refused) {
    const message = `The adapter does not fit '${row.baseModel}': ${error.message}.`;
    return failOperation(database.db, fence, { code: 'invalid_adapter', message, param: 'file' });
  }
  log.error({ err: error, operation: row.id }, 'an operation failed');
  if (error instanceof BaseChanged) {
    const { message } = baseModelChanged(row.modelId, row.baseModel);
    return failOperation(database.db, fence, { code: BASE_MODEL_CHANGED, message, param: null });
  }
  const hopeless = error instanceof StoredObjectDamaged || row.epoch >= CLAIMS_MAX;
  if (row.kind === 'import' && (hopeless || error instanceof ChildDied)) {
    const message = 'The adapter could not be read.';
    return failOperation(database.db, fence, { code: 'invalid_adapter', message, param: 'file' });
  }
  if (!hopeless) return false;
  const message = 'The model could not be exported.';
  return failOperation(database.db, fence, { code: 'export_failed', message, param: null });
}

/** The files received for an import have served; what cannot be removed now is taken by a sweep. */
async function removeInput({ storage, log }: OperationsParts, row: OperationRow): Promise<void> {
  if (row.kind !== 'import') return; // an export's input is the model itself
  for (const { name } of row.inputFiles) {
    await storage.delete(`${row.inputPrefix}/${name}`).catch((err: unknown) => {
      log.warn({ err, operation: row.id }, 'a received file is left to the next sweep');
    });
  }
}
