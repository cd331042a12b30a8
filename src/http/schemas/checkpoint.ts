/** A checkpoint of a job, usable as a model. */
import { z } from '@hono/zod-openapi';
import type { CheckpointRow } from '../../domain/jobs/repository.ts';
import { toUnix, unixSeconds } from './time.ts';

export const checkpointSchema = z
  .object({
    object: z.literal('fine_tuning.job.checkpoint'),
    id: z.string().openapi({ example: 'ftckpt_abc123' }),
    created_at: unixSeconds,
    fine_tuned_model_checkpoint: z.string(),
    fine_tuning_job_id: z.string(),
    step_number: z.int(),
    metrics: z.record(z.string(), z.number()),
  })
  .openapi('FineTuningJobCheckpoint');

export function presentCheckpoint(row: CheckpointRow): z.infer<typeof checkpointSchema> {
  if (row.modelName === null) throw new Error(`Checkpoint ${row.id} is not offered to users.`);
  return {
    object: 'fine_tuning.job.checkpoint',
    id: row.id,
    created_at: toUnix(row.createdAt),
    fine_tuned_model_checkpoint: row.modelName,
    fine_tuning_job_id: row.jobId,
    step_number: row.step,
    metrics: row.metrics,
  };
}
