/**
 * Every statement of the queue, one function each. All times are the database's clock. A statement of a holder carries
 * its fence; a row that does not match is a lost lease, which callers see as LeaseLost and never retry.
 */
import { type SQL, sql } from 'drizzle-orm';
import type { Queryable } from '../db/client.ts';
import type { StoredFile } from '../db/schema.ts';
import { newId } from '../ids.ts';

/** A trainer's hold on a job: valid for one claim of one worker. */
export interface Fence {
  jobId: string;
  epoch: number;
  workerId: string;
}

/** Another attempt holds the job, or the job has ended. Final: the attempt stops its child and drops its scratch. */
export class LeaseLost extends Error {
  override name = 'LeaseLost';
  constructor(fence: Fence) {
    super(`worker ${fence.workerId} no longer holds job ${fence.jobId} (epoch ${fence.epoch})`);
  }
}

export interface NewEvent {
  /** Made by the writer, so that a repeated write adds nothing. */
  id: string;
  level: 'info' | 'warn' | 'error';
  type: 'message' | 'metrics';
  message: string;
  data: Record<string, unknown>;
}

export interface ProgressUpdate {
  progress?: { step: number; total_steps: number; epoch: number };
  trainedTokens?: number;
  /** Seconds from now. */
  finishInSeconds?: number | null;
}

/** Postgres stores neither NUL nor half a surrogate pair; both may come out of a user's file. */
const storable = (text: string): string => text.replaceAll('\u0000', '\uFFFD').toWellFormed();

export function message(
  level: NewEvent['level'],
  text: string,
  data: Record<string, unknown> = {},
): NewEvent {
  return { id: newId('ftevent-'), level, type: 'message', message: storable(text), data };
}

export function metrics(text: string, data: Record<string, unknown>): NewEvent {
  return { id: newId('ftevent-'), level: 'info', type: 'metrics', message: text, data };
}

const ACTIVE = sql`status in ('validating_files', 'queued', 'running')`;

/** True on the one row that this fence holds. */
const held = (fence: Fence): SQL =>
  sql`id = ${fence.jobId} and epoch = ${fence.epoch} and worker_id = ${fence.workerId} and ${ACTIVE}`;

const seconds = (value: number): SQL => sql`make_interval(secs => ${value}::double precision)`;
const json = (value: unknown): SQL => sql`${JSON.stringify(value)}::jsonb`;

/**
 * Takes the next job whose base model this worker has, and starts a new epoch. lathe_next_job (migrations/0004_jobs.sql)
 * chooses and locks it; `skip locked` lets claimers pass each other without waiting. Jobs whose holder vanished come back through reap, which counts the crash.
 */
export async function claimNext(
  db: Queryable,
  workerId: string,
  baseModels: readonly string[],
  leaseSeconds: number,
): Promise<Fence | null> {
  const { rows } = await db.execute<{ id: string; epoch: number }>(sql`
    update fine_tuning_jobs set epoch = epoch + 1, attempts = attempts + 1, worker_id = ${workerId},
      lease_until = clock_timestamp() + ${seconds(leaseSeconds)}
    where id = (select lathe_next_job(array(select jsonb_array_elements_text(${json(baseModels)}))))
    returning id, epoch`);
  const row = rows[0];
  return row ? { jobId: row.id, epoch: row.epoch, workerId } : null;
}

/** True while some job waits or will wait for a worker with these models: `--once` must not end yet. */
export async function hasWork(db: Queryable, baseModels: readonly string[]): Promise<boolean> {
  const { rows } = await db.execute<{ found: boolean }>(sql`
    select exists (select 1 from fine_tuning_jobs where ${ACTIVE} and worker_id is null
      and model = any (array(select jsonb_array_elements_text(${json(baseModels)})))) as found`);
  return rows[0]!.found;
}

/** What the user asked of a held job. */
export type HolderRequests = {
  cancelRequested: boolean;
  pauseRequested: boolean;
};
const REQUESTS = sql`cancel_requested_at is not null as "cancelRequested", pause_requested_at is not null as "pauseRequested"`;

/** Extends the lease. @returns what the user asked for. @throws LeaseLost */
export async function renewLease(db: Queryable, fence: Fence, leaseSeconds: number): Promise<HolderRequests> {
  const { rows } = await db.execute<HolderRequests>(sql`
    update fine_tuning_jobs set lease_until = clock_timestamp() + ${seconds(leaseSeconds)} where ${held(fence)}
    returning ${REQUESTS}`);
  if (!rows[0]) throw new LeaseLost(fence);
  return rows[0];
}

/** Reads what the user asked for without writing. @throws LeaseLost */
export async function readRequests(db: Queryable, fence: Fence): Promise<HolderRequests> {
  const { rows } = await db.execute<HolderRequests>(
    sql`select ${REQUESTS} from fine_tuning_jobs where ${held(fence)}`,
  );
  if (!rows[0]) throw new LeaseLost(fence);
  return rows[0];
}

/**
 * Appends events and progress in one statement: `seq` comes from the job row, so it has no gaps, and an event that is
 * already there (a write whose answer was lost) is left out of the count. With a fence: @throws LeaseLost.
 */
export async function insertEvents(
  db: Queryable,
  target: Fence | { jobId: string },
  events: readonly NewEvent[],
  update: ProgressUpdate = {},
): Promise<void> {
  const fence = 'epoch' in target ? target : null;
  const finish =
    update.finishInSeconds == null ? sql`null` : sql`clock_timestamp() + ${seconds(update.finishInSeconds)}`;
  const { rows } = await db.execute<{ jobs: number }>(sql`
    with fresh as (
      select e.*, row_number() over (order by e.nr) as n
      from jsonb_to_recordset(${json(events.map((event, nr) => ({ nr, ...event })))})
        as e(nr integer, id text, level text, type text, message text, data jsonb)
      where not exists (select 1 from fine_tuning_job_events old where old.id = e.id)
    ), job as (
      update fine_tuning_jobs set event_seq = event_seq + (select count(*) from fresh),
        progress = coalesce(${update.progress ? json(update.progress) : sql`null::jsonb`}, progress),
        trained_tokens = coalesce(${update.trainedTokens ?? null}::bigint, trained_tokens),
        estimated_finish = ${update.finishInSeconds === undefined ? sql`estimated_finish` : finish}
      where ${fence ? held(fence) : sql`id = ${target.jobId}`}
      returning id, project_id, event_seq
    ), written as (
      insert into fine_tuning_job_events (id, project_id, job_id, seq, level, type, message, data)
      select f.id, job.project_id, job.id, job.event_seq - (select count(*) from fresh) + f.n,
        f.level, f.type, f.message, f.data
      from fresh f, job
    )
    select count(*)::integer as jobs from job`);
  if (rows[0]!.jobs === 0) {
    if (fence) throw new LeaseLost(fence);
    throw new Error(`there is no job ${target.jobId}`);
  }
}

/** Writes the values that "auto" became. @throws LeaseLost */
export async function updateSettings(
  db: Queryable,
  fence: Fence,
  settings: { method: unknown; adapter: unknown; trainer: unknown },
): Promise<void> {
  const { rowCount } = await db.execute(sql`
    update fine_tuning_jobs set method = ${json(settings.method)}, adapter = ${json(settings.adapter)},
      trainer = ${json(settings.trainer)} where ${held(fence)}`);
  if (rowCount === 0) throw new LeaseLost(fence);
}

/** Locks the held row until the transaction ends. @throws LeaseLost */
export async function lockHeld(
  tx: Queryable,
  fence: Fence,
  options: { onlyExpired?: boolean } = {},
): Promise<HolderRequests & { crashes: number }> {
  const expired = options.onlyExpired ? sql`and lease_until < clock_timestamp()` : sql``;
  const { rows } = await tx.execute<HolderRequests & { crashes: number }>(sql`
    select crashes, ${REQUESTS} from fine_tuning_jobs where ${held(fence)} ${expired} for update`);
  if (!rows[0]) throw new LeaseLost(fence);
  return rows[0];
}

/** Gives a locked job back to the queue; `crashes` stays when it is not given. Nobody knows now when it will end. */
export async function unlease(
  tx: Queryable,
  fence: Fence,
  waitSeconds: number,
  crashes?: number,
): Promise<void> {
  await tx.execute(sql`
    update fine_tuning_jobs set worker_id = null, lease_until = null, estimated_finish = null,
      crashes = coalesce(${crashes ?? null}::integer, crashes), run_after = clock_timestamp() + ${seconds(waitSeconds)} where ${held(fence)}`);
}

/** Holds whose lease ran out, oldest first. */
export async function expiredLeases(db: Queryable, limit: number): Promise<Fence[]> {
  const { rows } = await db.execute<{ id: string; epoch: number; worker_id: string }>(sql`
    select id, epoch, worker_id from fine_tuning_jobs
    where ${ACTIVE} and worker_id is not null and lease_until < clock_timestamp() order by lease_until limit ${limit}`);
  return rows.map((row) => ({ jobId: row.id, epoch: row.epoch, workerId: row.worker_id }));
}

export interface CheckpointRow {
  id: string;
  kind: 'epoch' | 'state';
  step: number;
  modelName: string | null;
  storagePrefix: string;
  files: StoredFile[];
  digest: string;
  metrics: Record<string, number>;
}

/**
 * Adds a checkpoint to a locked job and clears its crash count: there was progress. A live checkpoint of the same step
 * is the one that an earlier attempt announced and that could not be read back; its place is taken, its name stays.
 * @returns whether the row is new.
 */
export async function putCheckpoint(tx: Queryable, fence: Fence, row: CheckpointRow): Promise<boolean> {
  const replaced = await tx.execute(sql`
    update fine_tuning_job_checkpoints set epoch = ${fence.epoch}, storage_prefix = ${row.storagePrefix},
      files = ${json(row.files)}, digest = ${row.digest}, metrics = ${json(row.metrics)}
    where job_id = ${fence.jobId} and step = ${row.step} and deleted_at is null`);
  if (replaced.rowCount === 0) {
    await tx.execute(sql`
      insert into fine_tuning_job_checkpoints
        (id, project_id, job_id, epoch, step, kind, model_name, storage_prefix, files, digest, metrics)
      select ${row.id}, project_id, id, ${fence.epoch}, ${row.step}, ${row.kind}, ${row.modelName}, ${row.storagePrefix},
        ${json(row.files)}, ${row.digest}, ${json(row.metrics)}
      from fine_tuning_jobs where ${held(fence)}`);
  }
  await tx.execute(sql`update fine_tuning_jobs set crashes = 0 where ${held(fence)}`);
  return replaced.rowCount === 0;
}

/**
 * Keeps the newest `epochs` checkpoints that users see and the newest `states` of any kind, and marks the others as
 * deleted. @returns the storage prefixes that nothing refers to any more.
 */
export async function retireCheckpoints(
  tx: Queryable,
  fence: Fence,
  keep: { epochs: number; states: number },
): Promise<string[]> {
  const { rows } = await tx.execute<{ storage_prefix: string }>(sql`
    update fine_tuning_job_checkpoints c set deleted_at = clock_timestamp()
    from (
      select id, kind, row_number() over (order by step desc) as age,
        row_number() over (partition by kind order by step desc) as age_in_kind
      from fine_tuning_job_checkpoints where job_id = ${fence.jobId} and deleted_at is null
    ) ranked
    where c.id = ranked.id and ranked.age > ${keep.states}
      and not (ranked.kind = 'epoch' and ranked.age_in_kind <= ${keep.epochs})
    returning c.storage_prefix`);
  return unlessStartOfAnother(
    tx,
    rows.map((row) => row.storage_prefix),
  );
}

/** Leaves out what a job that has not ended starts from: its files must stay readable. */
async function unlessStartOfAnother(tx: Queryable, prefixes: readonly string[]): Promise<string[]> {
  if (prefixes.length === 0) return [];
  const { rows } = await tx.execute<{ prefix: string }>(sql`
    select p.prefix from jsonb_array_elements_text(${json(prefixes)}) as p(prefix)
    where not exists (select 1 from fine_tuning_jobs j where j.start is not null
      and j.start->>'storage_prefix' = p.prefix and j.status in ('validating_files', 'queued', 'running', 'paused'))`);
  return rows.map((row) => row.prefix);
}

/** Marks one checkpoint of a locked job as deleted. */
export async function deleteCheckpoint(tx: Queryable, fence: Fence, checkpointId: string): Promise<void> {
  await tx.execute(sql`
    update fine_tuning_job_checkpoints set deleted_at = clock_timestamp()
    where id = ${checkpointId} and job_id = ${fence.jobId}`);
}

/** Makes the models on offer follow the job's announced checkpoints. */
export async function offerCheckpoints(tx: Queryable, fence: Fence): Promise<void> {
  await tx.execute(sql`select lathe_offer_checkpoints(${fence.jobId})`);
}

export interface PublishedFile {
  id: string;
  bytes: number;
  sha256: string;
  filename: string;
  purpose: string;
  storageKey: string;
}

/** The row of a file that the job produced. */
export async function insertResultFile(tx: Queryable, fence: Fence, file: PublishedFile): Promise<void> {
  await tx.execute(sql`
    insert into files (id, project_id, bytes, filename, purpose, storage_key, sha256)
    select ${file.id}, project_id, ${file.bytes}, ${file.filename}, ${file.purpose}, ${file.storageKey}, ${file.sha256}
    from fine_tuning_jobs where ${held(fence)}`);
}

export interface PublishedModel {
  name: string;
  step: number;
  storagePrefix: string;
  files: StoredFile[];
  digest: string;
}

/** The tuned model's row, and the last checkpoint under the same name as one that users see. */
export async function insertModel(tx: Queryable, fence: Fence, model: PublishedModel): Promise<void> {
  await tx.execute(sql`
    insert into tuned_models
      (id, project_id, job_id, base_model, kind, owned_by, step, is_checkpoint, storage_prefix, files, digest)
    select ${model.name}, j.project_id, j.id, j.model,
      case when j.adapter->>'peft_type' = 'FULL' then 'full' else 'adapter' end, o.slug, ${model.step}, false,
      ${model.storagePrefix}, ${json(model.files)}, ${model.digest}
    from fine_tuning_jobs j join projects p on p.id = j.project_id join organizations o on o.id = p.organization_id
    where j.id = ${fence.jobId}`);
  await tx.execute(sql`
    update fine_tuning_job_checkpoints set kind = 'epoch', model_name = ${model.name}
    where job_id = ${fence.jobId} and step = ${model.step} and deleted_at is null`);
}

/** The figures of a finished job. @throws LeaseLost */
export async function updateResult(
  tx: Queryable,
  fence: Fence,
  result: { model: string; files: string[]; trainedTokens: number },
): Promise<void> {
  const { rowCount } = await tx.execute(sql`
    update fine_tuning_jobs set fine_tuned_model = ${result.model}, result_files = ${json(result.files)},
      trained_tokens = ${result.trainedTokens} where ${held(fence)}`);
  if (rowCount === 0) throw new LeaseLost(fence);
}

export async function updateError(tx: Queryable, fence: Fence, error: JobError): Promise<void> {
  const clean = { ...error, message: storable(error.message) };
  await tx.execute(sql`update fine_tuning_jobs set error = ${json(clean)} where ${held(fence)}`);
}

/** What the job's `error` shows. */
export interface JobError {
  code: string;
  message: string;
  param: string | null;
}

/** Whether this job was already published under this name: the answer to a commit whose reply was lost. */
export async function isPublishedAs(db: Queryable, jobId: string, model: string): Promise<boolean> {
  const { rows } = await db.execute(
    sql`select 1 from fine_tuning_jobs where id = ${jobId} and status = 'succeeded' and fine_tuned_model = ${model}`,
  );
  return rows.length > 0;
}

/** Whether this fence holds the job in this state: the answer to a move whose reply was lost. */
export async function isHeldAs(db: Queryable, fence: Fence, status: string): Promise<boolean> {
  const { rows } = await db.execute(
    sql`select 1 from fine_tuning_jobs where ${held(fence)} and status = ${status}`,
  );
  return rows.length > 0;
}

/**
 * Marks the training states of a locked job that ends as deleted: nobody resumes it any more. Announced checkpoints
 * stay. @returns the storage prefixes that nothing refers to any more.
 */
export async function retireStates(tx: Queryable, jobId: string): Promise<string[]> {
  const { rows } = await tx.execute<{ storage_prefix: string }>(sql`
    update fine_tuning_job_checkpoints set deleted_at = clock_timestamp()
    where job_id = ${jobId} and kind = 'state' and deleted_at is null returning storage_prefix`);
  return rows.map((row) => row.storage_prefix);
}
