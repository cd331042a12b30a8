/**
 * The trainer's life: announce itself, sweep what dead workers left, claim a job, run it, claim the next; leave when
 * told to. Knows no training and no signals.
 */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { totalmem } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../../src/config.ts';
import type { Database } from '../../src/db/client.ts';
import { baseModelSources } from '../../src/domain/base-models/register.ts';
import { newId } from '../../src/ids.ts';
import type { Log } from '../../src/log.ts';
import {
  heartbeatWorker,
  registerWorker,
  removeWorker,
  sweepWorkers,
  type WorkerRegistration,
} from '../../src/queue/processes.ts';
import { claim, type Fence, hasWork, listBaseModels, reap } from '../../src/queue/queue.ts';
import type { Storage } from '../../src/storage/storage.ts';
import type { DeviceOptions } from '../engine/device.ts';
import { openProcessFolder } from '../process-folder.ts';
import type { Worker } from './attempt.ts';
import type { Failpoint } from './failpoints.ts';
import { isTransient, reasonOf } from './retry.ts';
import { runJob } from './run-job.ts';
import { removeRetired } from './uploads.ts';

export interface SupervisorOptions {
  config: Config;
  database: Database;
  storage: Storage;
  log: Log;
  device: DeviceOptions;
  /** How this worker's row names its device, e.g. `cuda:1`. Default: what the configuration asks for. */
  deviceName?: string;
  /** Return when no job waits for this worker. */
  once: boolean;
  /** Finish: hand the running job over and return. */
  drain: AbortSignal;
  failpoints?: readonly Failpoint[];
}

/** A worker's row is removed after this many silent heartbeats; jobs have leases of their own. */
const SILENT_HEARTBEATS = 12;

/** Runs jobs one after the other. Returns after `drain`, or with `once` when the queue is empty. */
export async function supervise(options: SupervisorOptions): Promise<void> {
  const { config, database, log, drain } = options;
  const registration: WorkerRegistration = {
    id: newId('worker_'),
    kind: 'trainer',
    device: options.deviceName ?? config.device,
    state: 'ready',
    memoryBytes: trainingMemoryBytes(config.device),
  };
  const worker: Worker = {
    ...options,
    id: registration.id,
    log: log.child({ worker_id: registration.id }),
    failpoints: options.failpoints ?? [],
    scratch: await openProcessFolder(config.scratchDir),
    folderOf: await modelFolders(config),
  };
  registration.baseModels = await modelsHere(worker);
  await registerWorker(database, registration);
  const heartbeat = setInterval(() => {
    heartbeatWorker(database, registration).catch((err) =>
      worker.log.warn({ reason: reasonOf(err) }, 'worker heartbeat failed'),
    );
  }, config.heartbeatSeconds * 1000);
  drain.addEventListener('abort', () => {
    registration.state = 'draining';
  });
  worker.log.info({ scratch: worker.scratch }, 'trainer ready');
  try {
    await work(worker, registration, options.once);
  } finally {
    clearInterval(heartbeat);
    await rm(worker.scratch, { recursive: true, force: true });
    await removeWorker(database, registration.id).catch((err) =>
      worker.log.warn({ reason: reasonOf(err) }, 'could not sign off'),
    );
  }
  worker.log.info(drain.aborted ? 'trainer drained' : 'the queue is empty');
}

/** The memory that jobs here may fill, as far as it is known without opening a device; null where it may be a GPU's. */
function trainingMemoryBytes(kind: Config['device']): number | null {
  return kind === 'cpu' || (kind === 'auto' && !existsSync('/dev/nvidiactl')) ? totalmem() : null;
}

/** Claims and runs until told to leave. An idle worker looks at half the poll interval first, then at the whole. */
async function work(worker: Worker, registration: WorkerRegistration, once: boolean): Promise<void> {
  const { config, database, drain, log } = worker;
  let idleRounds = 0;
  let sweptAt = Number.NEGATIVE_INFINITY;
  while (!drain.aborted) {
    try {
      if (performance.now() - sweptAt >= config.heartbeatSeconds * 1000) {
        await sweep(worker);
        sweptAt = performance.now();
      }
      const models = await modelsHere(worker);
      registration.baseModels = models; // told with the next heartbeat
      const claimedAt = performance.now();
      const fence = await claim(database, worker.id, models, config.leaseSeconds);
      if (fence) {
        await runJob(worker, fence, claimedAt);
        idleRounds = 0;
        continue;
      }
      if (once && !(await hasWork(database, models))) return;
    } catch (err) {
      if (!isTransient(err)) throw err;
      log.warn({ reason: reasonOf(err) }, 'the queue cannot be reached; trying again');
    }
    const share = idleRounds++ < 2 ? 0.4 : 0.9;
    await sleep(config.pollMilliseconds * share, undefined, { signal: drain }).catch(() => {}); // woken: the loop ends
  }
}

/** Takes back the jobs of workers that are gone, and forgets their rows. */
async function sweep({ database, storage, config, log }: Worker): Promise<void> {
  const onError = (err: unknown, fence: Fence) =>
    log.error({ err, job_id: fence.jobId }, 'a job could not be taken back');
  for (const fence of await reap(database, config, onError)) {
    log.warn(
      { job_id: fence.jobId, epoch: fence.epoch, worker: fence.workerId },
      'took a job back from a silent worker',
    );
    await removeRetired(storage, fence.retired, log);
  }
  await sweepWorkers(database, config.heartbeatSeconds * SILENT_HEARTBEATS);
}

/** Where base models lie: in this machine's own folder of that name, else where the one that registered it has it. */
async function modelFolders(config: Config): Promise<Worker['folderOf']> {
  const own = new Map((await baseModelSources(config)).map(({ id, location }) => [id, location]));
  return ({ id, location }) => own.get(id) ?? location;
}

/** Base models whose folder lies on this machine; of those only the configured ones, where the configuration names any. */
async function modelsHere({ database, folderOf, config }: Worker): Promise<string[]> {
  const configured = config.baseModels?.map(({ id }) => id);
  const models = (await listBaseModels(database)).filter(({ id }) => configured?.includes(id) ?? true);
  return models.filter((model) => existsSync(path.join(folderOf(model), 'config.json'))).map(({ id }) => id);
}
