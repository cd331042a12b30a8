/** The event of a job, in lists and in streams. */
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

const encoder = new TextEncoder();
/** Many streams send the same row: it is written out once. */
const written = new WeakMap<EventRow, Uint8Array>();

/** One server-sent event; its id is what a client comes back with (Last-Event-ID). */
function streamedEvent(row: EventRow): Uint8Array {
  let bytes = written.get(row);
  if (!bytes) {
    bytes = encoder.encode(`id: ${row.id}\ndata: ${JSON.stringify(presentEvent(row))}\n\n`);
    written.set(row, bytes);
  }
  return bytes;
}

/** A batch of server-sent events as one chunk. */
export function streamedEvents(rows: readonly EventRow[]): Uint8Array {
  return rows.length === 1 ? streamedEvent(rows[0]!) : Buffer.concat(rows.map(streamedEvent));
}

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
