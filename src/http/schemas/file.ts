/** The File object and how a row becomes one. */
import { z } from '@hono/zod-openapi';
import { FILE_PURPOSES, type FileRow } from '../../domain/files/repository.ts';
import { unixSeconds } from './time.ts';

export const fileSchema = z
  .object({
    id: z.string().openapi({ example: 'file-abc123' }),
    object: z.literal('file'),
    bytes: z.int(),
    created_at: unixSeconds,
    expires_at: unixSeconds.optional(),
    filename: z.string(),
    purpose: z.string().openapi({ example: 'fine-tune' }),
    status: z.enum(['uploaded', 'processed', 'error']),
    status_details: z.string().nullable(),
  })
  .openapi('File');

export const fileDeletedSchema = z
  .object({ id: z.string(), object: z.literal('file'), deleted: z.literal(true) })
  .openapi('FileDeleted');

/** Stored bytes as an answer, whole or the range that `Range` asks for. */
export function bytesAnswer() {
  const content = {
    'application/octet-stream': { schema: { type: 'string' as const, format: 'binary' } },
  };
  return {
    200: { description: 'The bytes', content },
    206: { description: 'The bytes of the range', content },
  };
}

/** The multipart body as documentation; it is read by http/multipart.ts as it streams. */
export const uploadBody = {
  'multipart/form-data': {
    schema: {
      type: 'object' as const,
      required: ['file', 'purpose'],
      properties: {
        file: { type: 'string' as const, format: 'binary' },
        purpose: { type: 'string' as const, enum: [...FILE_PURPOSES] },
        'expires_after[anchor]': { type: 'string' as const, enum: ['created_at'] },
        'expires_after[seconds]': { type: 'integer' as const, minimum: 3600, maximum: 2_592_000 },
      },
    },
  },
};

export function presentFile(row: FileRow): z.infer<typeof fileSchema> {
  return {
    id: row.id,
    object: 'file',
    bytes: row.bytes,
    created_at: Math.floor(row.createdAt.getTime() / 1000),
    ...(row.expiresAt ? { expires_at: Math.floor(row.expiresAt.getTime() / 1000) } : {}),
    filename: row.filename,
    purpose: row.purpose,
    status: row.status as 'processed',
    status_details: null,
  };
}
