/** The Batch object: the create request, and how a row becomes an answer. */
import { z } from '@hono/zod-openapi';
import type { BatchRow, BatchStatus } from '../../domain/batches/repository.ts';
import { integer, strictObject } from '../../domain/jobs/parameters.ts';
import { INNER_ENDPOINTS } from '../inner-requests.ts';
import { metadataSchema } from './metadata.ts';
import { toUnix, toUnixOrNull, unixSeconds } from './time.ts';

/** Endpoints of OpenAI's that a batch may name there. */
const FOREIGN_ENDPOINTS = [
  '/v1/responses',
  '/v1/embeddings',
  '/v1/moderations',
  '/v1/images/generations',
  '/v1/images/edits',
  '/v1/videos',
];

export const createBatchSchema = strictObject({
  input_file_id: z.string().min(1).max(200).openapi({ example: 'file-abc123' }),
  endpoint: z
    .string()
    .refine(
      (path) => (INNER_ENDPOINTS as readonly string[]).includes(path) || !FOREIGN_ENDPOINTS.includes(path),
      {
        message: `this server runs batches over ${INNER_ENDPOINTS.join(' and ')}.`,
        params: { code: 'unsupported_value' },
      },
    )
    .pipe(z.enum(INNER_ENDPOINTS))
    .openapi({ enum: [...INNER_ENDPOINTS] }),
  completion_window: z.enum(['24h']),
  metadata: metadataSchema.nullish(),
  output_expires_after: strictObject({
    anchor: z.enum(['created_at']),
    seconds: integer(3_600, 2_592_000),
  }).nullish(),
}).openapi('CreateBatchRequest');

const lineError = z.object({
  code: z.string(),
  message: z.string(),
  param: z.string().nullable(),
  line: z.int().nullable(),
});

const STATUSES = [
  'validating',
  'failed',
  'in_progress',
  'finalizing',
  'completed',
  'expired',
  'cancelling',
  'cancelled',
] as const satisfies readonly BatchStatus[];

export const batchSchema = z
  .object({
    id: z.string().openapi({ example: 'batch_abc123' }),
    object: z.literal('batch'),
    endpoint: z.string(),
    model: z.string().optional(),
    errors: z.object({ object: z.literal('list'), data: z.array(lineError) }).nullable(),
    input_file_id: z.string(),
    completion_window: z.string(),
    status: z.enum(STATUSES),
    output_file_id: z.string().nullable(),
    error_file_id: z.string().nullable(),
    created_at: unixSeconds,
    in_progress_at: unixSeconds.nullable(),
    expires_at: unixSeconds,
    finalizing_at: unixSeconds.nullable(),
    completed_at: unixSeconds.nullable(),
    failed_at: unixSeconds.nullable(),
    expired_at: unixSeconds.nullable(),
    cancelling_at: unixSeconds.nullable(),
    cancelled_at: unixSeconds.nullable(),
    request_counts: z.object({ total: z.int(), completed: z.int(), failed: z.int() }),
    usage: z.object({
      input_tokens: z.int(),
      input_tokens_details: z.object({ cached_tokens: z.int() }),
      output_tokens: z.int(),
      output_tokens_details: z.object({ reasoning_tokens: z.int() }),
      total_tokens: z.int(),
    }),
    metadata: z.record(z.string(), z.string()).nullable(),
  })
  .openapi('Batch');

export function presentBatch(row: BatchRow): z.infer<typeof batchSchema> {
  return {
    id: row.id,
    object: 'batch',
    endpoint: row.endpoint,
    ...(row.model === null ? {} : { model: row.model }),
    errors: row.errors ? { object: 'list', data: row.errors } : null,
    input_file_id: row.inputFileId,
    completion_window: row.completionWindow,
    status: row.status as BatchStatus,
    output_file_id: row.outputFileId,
    error_file_id: row.errorFileId,
    created_at: toUnix(row.createdAt),
    in_progress_at: toUnixOrNull(row.inProgressAt),
    expires_at: toUnix(row.expiresAt),
    finalizing_at: toUnixOrNull(row.finalizingAt),
    completed_at: toUnixOrNull(row.completedAt),
    failed_at: toUnixOrNull(row.failedAt),
    expired_at: toUnixOrNull(row.expiredAt),
    cancelling_at: toUnixOrNull(row.cancellingAt),
    cancelled_at: toUnixOrNull(row.cancelledAt),
    request_counts: { total: row.total, completed: row.completed, failed: row.failed },
    usage: {
      input_tokens: row.inputTokens,
      input_tokens_details: { cached_tokens: row.cachedTokens },
      output_tokens: row.outputTokens,
      output_tokens_details: { reasoning_tokens: 0 },
      total_tokens: row.inputTokens + row.outputTokens,
    },
    metadata: row.metadata ?? null,
  };
}
