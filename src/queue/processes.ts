/**
 * Which workers are alive: a row per process with a heartbeat. It serves routing and display only; a job is protected
 * by its own lease, never by these rows.
 */
import { hostname } from 'node:os';
import { eq, lt, sql } from 'drizzle-orm';
import type { Database } from '../db/client.ts';
import { workers } from '../db/schema.ts';

export type WorkerState = 'starting' | 'ready' | 'draining';

export interface WorkerRegistration {
  id: string;
  kind: 'trainer' | 'inference';
  device: string;
  state: WorkerState;
  url?: string | null;
  baseModel?: string | null;
  /** sha256 of the base model's files that an inference worker holds. */
  baseDigest?: string | null;
  /** What a trainer can train. */
  baseModels?: string[];
  /** How it holds the weights, where not as they are. */
  quantization?: 'int8' | null;
  /** Memory of the device that trains; null where it is not known. */
  memoryBytes?: number | null;
}

/** Announces this process. */
export async function registerWorker(database: Database, worker: WorkerRegistration): Promise<void> {
  const row = {
    ...worker,
    url: worker.url ?? null,
    baseModel: worker.baseModel ?? null,
    baseDigest: worker.baseDigest ?? null,
    baseModels: worker.baseModels ?? [],
    quantization: worker.quantization ?? null,
    memoryBytes: worker.memoryBytes ?? null,
    host: hostname(),
    pid: process.pid,
  };
  await database.leases.insert(workers).values(row).onConflictDoUpdate({ target: workers.id, set: row });
}

/** Says that the process lives; also brings the row back if a sweep removed it while the database was away. */
export async function heartbeatWorker(database: Database, worker: WorkerRegistration): Promise<void> {
  const touched = await database.leases
    .update(workers)
    .set({ state: worker.state, baseModels: worker.baseModels ?? [], heartbeatAt: sql`clock_timestamp()` })
    .where(eq(workers.id, worker.id));
  if (touched.rowCount === 0) await registerWorker(database, worker);
}

/** Takes the process off the list at a clean end. */
export async function removeWorker(database: Database, workerId: string): Promise<void> {
  await database.leases.delete(workers).where(eq(workers.id, workerId));
}

/** Removes the rows of processes that were silent for `seconds`. */
export async function sweepWorkers(database: Database, seconds: number): Promise<void> {
  await database.leases
    .delete(workers)
    .where(
      lt(workers.heartbeatAt, sql`clock_timestamp() - make_interval(secs => ${seconds}::double precision)`),
    );
}
