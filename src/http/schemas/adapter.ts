/** Adapters that come and go, and exports of merged models. Ours: OpenAI has none of these. */
import { z } from '@hono/zod-openapi';
import { exportBytes } from '../../domain/adapters/download.ts';
import type { OperationRow } from '../../domain/adapters/operations-repository.ts';
import { strictObject } from '../../domain/jobs/parameters.ts';
import { toUnix, toUnixOrNull, unixSeconds } from './time.ts';

/** The multipart body as documentation; it is read by http/multipart.ts as it streams. */
export const adapterBody = {
  'multipart/form-data': {
    schema: {
      type: 'object' as const,
      required: ['file'],
      properties: {
        file: {
          description:
            'A PEFT folder as one .tar, or the part twice: adapter_config.json and adapter_model.safetensors.',
          anyOf: [
            { type: 'string' as const, format: 'binary' },
            { type: 'array' as const, items: { type: 'string' as const, format: 'binary' } },
          ],
        },
        base_model: {
          type: 'string' as const,
          description: 'Base model of this server; what adapter_config.json names unless given.',
        },
        suffix: { type: 'string' as const, maxLength: 64 },
      },
    },
  },
};

export const adapterQuery = z.object({
  format: z.enum(['tar', 'safetensors']).default('tar').openapi({
    description: "'tar' is the PEFT folder, 'safetensors' its weights alone.",
  }),
});

export const createExportSchema = strictObject({
  model: z.string().min(1).max(512).openapi({ description: 'A tuned model or a checkpoint.' }),
}).openapi('CreateExportRequest');

export const exportSchema = z
  .object({
    id: z.string().openapi({ example: 'export_abc123' }),
    object: z.literal('fine_tuning.export'),
    model: z.string(),
    base_model: z.string(),
    status: z.enum(['queued', 'running', 'succeeded', 'failed']),
    created_at: unixSeconds,
    finished_at: unixSeconds.nullable(),
    expires_at: unixSeconds.nullable().openapi({ description: 'When it can no longer be downloaded.' }),
    bytes: z.int().nullable().openapi({ description: 'Size of its files, once it has succeeded.' }),
    error: z.object({ code: z.string(), message: z.string(), param: z.string().nullable() }).nullable(),
  })
  .openapi('FineTuningExport');

export const exportDeletedSchema = z
  .object({ id: z.string(), object: z.literal('fine_tuning.export'), deleted: z.literal(true) })
  .openapi('FineTuningExportDeleted');

export function presentExport(row: OperationRow): z.infer<typeof exportSchema> {
  return {
    id: row.id,
    object: 'fine_tuning.export',
    model: row.modelId,
    base_model: row.baseModel,
    status: row.status as 'queued',
    created_at: toUnix(row.createdAt),
    finished_at: toUnixOrNull(row.finishedAt),
    expires_at: toUnixOrNull(row.expiresAt),
    bytes: exportBytes(row),
    error: row.error ?? null,
  };
}
