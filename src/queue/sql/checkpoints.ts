/** Statements about the checkpoints of a job: which exist, which users see, which are no longer needed. */
import { sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import type { StoredFile } from '../../db/columns.ts';
import { type Fence, held, json } from './fence.ts';

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
  return unlessInUse(
    tx,
    rows.map((row) => row.storage_prefix),
  );
}

/** Leaves out what a job that has not ended starts from, and what an export reads: the files must stay readable. */
async function unlessInUse(tx: Queryable, prefixes: readonly string[]): Promise<string[]> {
  if (prefixes.length === 0) return [];
  const { rows } = await tx.execute<{ prefix: string }>(sql`
    select p.prefix from jsonb_array_elements_text(${json(prefixes)}) as p(prefix)
    where not exists (select 1 from fine_tuning_jobs j where j.start is not null
      and j.start->>'storage_prefix' = p.prefix and j.status in ('validating_files', 'queued', 'running', 'paused'))
      and not exists (select 1 from model_operations o
        where o.input_prefix = p.prefix and o.status in ('queued', 'running'))`);
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
