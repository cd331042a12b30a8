/** The Upload object, its parts, and the requests around them. */
import { z } from '@hono/zod-openapi';
import { integer, strictObject } from '../../domain/jobs/parameters.ts';
import type { PartRow, UploadRow } from '../../domain/uploads/repository.ts';
import type { UploadView } from '../../domain/uploads/uploads.ts';
import { fileSchema, presentFile } from './file.ts';
import { toUnix, unixSeconds } from './time.ts';

const PARTS_MAX = 10_000;

export const createUploadSchema = strictObject({
  filename: z.string().min(1).max(1024).openapi({ example: 'train.jsonl' }),
  purpose: z.string().max(64).openapi({ example: 'fine-tune' }),
  bytes: integer(1, 2 ** 43).openapi({ description: 'Size of the whole file.' }),
  mime_type: z.string().min(1).max(255).openapi({ example: 'text/jsonl' }),
  expires_after: strictObject({
    anchor: z.literal('created_at'),
    seconds: integer(3600, 2_592_000),
  }).nullish(),
}).openapi('CreateUploadRequest');

export const completeUploadSchema = strictObject({
  part_ids: z.array(z.string().min(1).max(200)).min(1).max(PARTS_MAX).openapi({
    description: 'The parts in the order of the file.',
  }),
  md5: z
    .string()
    .regex(/^[0-9a-fA-F]{32}$/, 'expected an md5 of 32 hexadecimal digits')
    .nullish()
    .openapi({ description: 'Checksum of the whole file.' }),
}).openapi('CompleteUploadRequest');

export const uploadSchema = z
  .object({
    id: z.string().openapi({ example: 'upload_abc123' }),
    object: z.literal('upload'),
    bytes: z.int(),
    created_at: unixSeconds,
    expires_at: unixSeconds,
    filename: z.string(),
    purpose: z.string(),
    status: z.enum(['pending', 'completed', 'cancelled', 'expired']),
    file: fileSchema.nullable(),
  })
  .openapi('Upload');

export const uploadPartSchema = z
  .object({
    id: z.string().openapi({ example: 'part_abc123' }),
    object: z.literal('upload.part'),
    created_at: unixSeconds,
    upload_id: z.string(),
  })
  .openapi('UploadPart');

/** The multipart body as documentation; it is read by http/multipart.ts as it streams. */
export const partBody = {
  'multipart/form-data': {
    schema: {
      type: 'object' as const,
      required: ['data'],
      properties: { data: { type: 'string' as const, format: 'binary', description: 'At most 64 MiB.' } },
    },
  },
};

export function presentUpload(
  upload: UploadRow,
  file: UploadView['file'] = null,
): z.infer<typeof uploadSchema> {
  return {
    id: upload.id,
    object: 'upload',
    bytes: upload.bytes,
    created_at: toUnix(upload.createdAt),
    expires_at: toUnix(upload.expiresAt),
    filename: upload.filename,
    purpose: upload.purpose,
    status: upload.status,
    file: file && presentFile(file),
  };
}

export function presentPart(part: PartRow): z.infer<typeof uploadPartSchema> {
  return { id: part.id, object: 'upload.part', created_at: toUnix(part.createdAt), upload_id: part.uploadId };
}
