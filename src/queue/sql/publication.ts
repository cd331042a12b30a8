/** Statements of the end that succeeds: the result file, the tuned model, the job's last figures. */
import { sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import type { StoredFile } from '../../db/columns.ts';
import { type Fence, held, json, LeaseLost } from './fence.ts';

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
      (id, project_id, job_id, base_model, base_digest, kind, owned_by, step, is_checkpoint, storage_prefix, files, digest)
    select ${model.name}, j.project_id, j.id, j.model, j.base_digest,
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

/** Whether this job was already published under this name: the answer to a commit whose reply was lost. */
export async function isPublishedAs(db: Queryable, jobId: string, model: string): Promise<boolean> {
  const { rows } = await db.execute(
    sql`select 1 from fine_tuning_jobs where id = ${jobId} and status = 'succeeded' and fine_tuned_model = ${model}`,
  );
  return rows.length > 0;
}
