/** /v1/uploads: files that come in parts. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Dependencies } from '../../domain/dependencies.ts';
import { completeUpload } from '../../domain/uploads/complete.ts';
import { addPart, cancelUpload, createUpload, PART_BYTES_MAX } from '../../domain/uploads/uploads.ts';
import type { App } from '../context.ts';
import { idFor } from '../idempotency.ts';
import { readForm } from '../multipart.ts';
import { errors, ok } from '../schemas/error.ts';
import {
  completeUploadSchema,
  createUploadSchema,
  partBody,
  presentPart,
  presentUpload,
  uploadPartSchema,
  uploadSchema,
} from '../schemas/upload.ts';

const tags = ['Uploads'];
const params = z.object({ upload_id: z.string() });
const json = <S extends z.ZodType>(schema: S) => ({
  body: { required: true, content: { 'application/json': { schema } } },
});

const create = createRoute({
  method: 'post',
  path: '/v1/uploads',
  tags,
  summary: 'Create an upload',
  request: json(createUploadSchema),
  responses: { ...ok(uploadSchema), ...errors(400, 413, 415) },
});

const part = createRoute({
  method: 'post',
  path: '/v1/uploads/{upload_id}/parts',
  tags,
  summary: 'Add a part',
  request: { params, body: { required: true, content: partBody } },
  responses: { ...ok(uploadPartSchema), ...errors(400, 404, 413, 415) },
});

const complete = createRoute({
  method: 'post',
  path: '/v1/uploads/{upload_id}/complete',
  tags,
  summary: 'Complete an upload: its parts become a file',
  request: { params, ...json(completeUploadSchema) },
  responses: { ...ok(uploadSchema), ...errors(400, 404, 413, 415) },
});

const cancel = createRoute({
  method: 'post',
  path: '/v1/uploads/{upload_id}/cancel',
  tags,
  summary: 'Cancel an upload',
  request: { params },
  responses: { ...ok(uploadSchema), ...errors(400, 404) },
});

export function uploadRoutes(app: App, deps: Dependencies): void {
  app.openapi(create, async (c) => {
    const { projectId } = c.var.identity;
    const upload = await createUpload(deps, projectId, c.req.valid('json'), idFor(c, 'upload_'));
    return c.json(presentUpload(upload), 200);
  });

  app.openapi(part, async (c) => {
    const receive = (sink: Parameters<typeof readForm>[2]) =>
      readForm(c, PART_BYTES_MAX, sink, { field: 'data' });
    const id = c.req.valid('param').upload_id;
    return c.json(presentPart(await addPart(deps, c.var.identity.projectId, id, receive)), 200);
  });

  app.openapi(complete, async (c) => {
    const id = c.req.valid('param').upload_id;
    const { upload, file } = await completeUpload(deps, c.var.identity.projectId, id, c.req.valid('json'));
    return c.json(presentUpload(upload, file), 200);
  });

  app.openapi(cancel, async (c) => {
    const id = c.req.valid('param').upload_id;
    return c.json(presentUpload(await cancelUpload(deps, c.var.identity.projectId, id)), 200);
  });
}
