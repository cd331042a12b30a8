/** The event of a job. */
import { z } from '@hono/zod-openapi';
import type { EventRow } from '../../domain/jobs/repository.ts';
import { toUnix, unixSeconds } from './time.ts';

export const eventSchema = z
  .object({
    object: z.literal('fine_tuning.job.event'),
    id: z.string().openapi({ example: 'ftevent-abc123' }),
    created_at: unixSeconds,
    level: z.enum(['info', 'warn', 'error']),
    message: z.string(),
    type: z.enum(['message', 'metrics']),
    data: z.record(z.string(), z.unknown()),
  })
  .openapi('FineTuningJobEvent');

export function presentEvent(row: EventRow): z.infer<typeof eventSchema> {
  return {
    object: 'fine_tuning.job.event',
    id: row.id,
    created_at: toUnix(row.createdAt),
    level: row.level as 'info',
    message: row.message,
    type: row.type as 'message',
    data: row.data,
  };
}
