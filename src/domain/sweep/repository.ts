/**
 * The statements of the sweep. They look at every project at once: what they return is compared with storage, never
 * shown. Each stored object is owned by the project in its key, and the conditions below hold it to that.
 */
import { sql } from 'drizzle-orm';
import type { PoolClient } from 'pg';
import type { Queryable } from '../../db/client.ts';

/** Who sweeps: one session in the whole installation (a schema of its own counts as one). False when another does. */
export async function tryLockSweep(client: PoolClient): Promise<boolean> {
  const { rows } = await client.query<{ locked: boolean }>(
    "select pg_try_advisory_lock(hashtextextended('lathe sweep ' || current_schema(), 0)) as locked",
  );
  return rows[0]!.locked;
}

export async function unlockSweep(client: PoolClient): Promise<void> {
  await client.query("select pg_advisory_unlock(hashtextextended('lathe sweep ' || current_schema(), 0))");
}

/**
 * What becomes of `keys`. Those of a project that this database does not know are foreign: another installation's, or
 * those of a database that was here before, and nothing can be said of them. Live is what something refers to, or did until `graceSeconds` ago:
 * a file whose bytes were not swept; a part of an Upload; a model (the files it consists of, and its manifest), a
 * starting point or an export's source of work that has not ended; a checkpoint of a job that has not ended (a job that
 * has, resumes no more: of its checkpoints only what is on offer as a model stays); whatever the holder of a job, a
 * batch or an operation is writing under its current epoch; the result of an export that can still be downloaded,
 * which for a fully tuned model is the model's own files, in whatever project they lie. All others are dead.
 */
export async function judgeKeys(
  db: Queryable,
  keys: readonly string[],
  graceSeconds: number,
): Promise<{ dead: string[]; foreign: number }> {
  const since = sql`(clock_timestamp() - make_interval(secs => ${graceSeconds}))`;
  const ended = sql`('succeeded', 'failed', 'cancelled')`;
  const { rows } = await db.execute<{ key: string; foreign: boolean }>(sql`
    with k as (
      select key, regexp_replace(key, '/[^/]*$', '') as prefix, regexp_replace(key, '^.*/', '') as name,
        split_part(key, '/', 2) as project, split_part(key, '/', 4) as owner, split_part(key, '/', 5) as part
      from jsonb_array_elements_text(${JSON.stringify(keys)}::jsonb) as key
    )
    select key, not exists (select 1 from projects p where p.id = k.project) as foreign from k where not (
      exists (select 1 from files f where f.storage_key = k.key and f.swept_at is null)
      or exists (select 1 from upload_parts p where p.id = k.part and p.storage_key = k.key)
      or exists (select 1 from tuned_models m where m.storage_prefix = k.prefix
        and (m.deleted_at is null or m.deleted_at > ${since})
        and (k.name = 'manifest.json' or m.files @> jsonb_build_array(jsonb_build_object('name', k.name))))
      or exists (select 1 from fine_tuning_jobs j where j.start->>'storage_prefix' = k.prefix
        and j.status not in ${ended})
      or exists (select 1 from fine_tuning_job_checkpoints c join fine_tuning_jobs j on j.id = c.job_id
        where c.storage_prefix = k.prefix
        and (c.deleted_at is null or c.deleted_at > ${since})
        and (j.status not in ${ended} or j.finished_at > ${since}))
      or exists (select 1 from fine_tuning_jobs j where j.project_id = k.project and j.id = k.owner
        and j.worker_id is not null and k.part = 'e' || j.epoch)
      or exists (select 1 from batches b where b.project_id = k.project and b.id = k.owner and b.runner_id is not null
        and b.status in ('validating', 'in_progress', 'finalizing', 'cancelling') and k.part = 'e' || b.epoch)
      or exists (select 1 from model_operations o where o.input_prefix = k.prefix and o.status in ('queued', 'running'))
      or exists (select 1 from model_operations o where o.project_id = k.project and o.id = k.owner
        and ((o.status = 'running' and k.part = 'e' || o.epoch)
          or (o.status = 'succeeded' and o.kind = 'export' and o.storage_prefix = k.prefix and o.expires_at > ${since})))
      or exists (select 1 from model_operations o where o.storage_prefix = k.prefix
        and o.kind = 'export' and o.status = 'succeeded' and o.expires_at > ${since}
        and o.files @> jsonb_build_array(jsonb_build_object('name', k.name))))`);
  const dead = rows.filter((row) => !row.foreign).map((row) => row.key);
  return { dead, foreign: rows.length - dead.length };
}
