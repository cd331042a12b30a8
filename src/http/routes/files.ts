/** /v1/files: upload (streamed), list, retrieve, content, delete. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Dependencies } from '../../domain/dependencies.ts';
import { createFile } from '../../domain/files/create.ts';
import { deleteFile, getFile, openFile, pageOfFiles } from '../../domain/files/read.ts';
import type { App } from '../context.ts';
import { download } from '../download.ts';
import { readForm } from '../multipart.ts';
import { errors, ok } from '../schemas/error.ts';
import { bytesAnswer, fileDeletedSchema, fileSchema, presentFile, uploadBody } from '../schemas/file.ts';
import { cursor, listWithEnds, queryInteger, toListWithEnds } from '../schemas/list.ts';

const tags = ['Files'];
const params = z.object({ file_id: z.string() });

const upload = createRoute({
  method: 'post',
  path: '/v1/files',
  tags,
  summary: 'Upload a file',
  request: { body: { required: true, content: uploadBody } },
  responses: { ...ok(fileSchema), ...errors(400, 413, 415) },
});

const list = createRoute({
  method: 'get',
  path: '/v1/files',
  tags,
  summary: 'List files',
  request: {
    query: z.object({
      purpose: z.string().max(64).optional(),
      limit: queryInteger(1, 10_000, 10_000),
      order: z.enum(['asc', 'desc']).default('desc'),
      after: cursor,
    }),
  },
  responses: { ...ok(listWithEnds(fileSchema)), ...errors(400) },
});

const retrieve = createRoute({
  method: 'get',
  path: '/v1/files/{file_id}',
  tags,
  summary: 'Retrieve a file',
  request: { params },
  responses: { ...ok(fileSchema), ...errors(404) },
});

const content = createRoute({
  method: 'get',
  path: '/v1/files/{file_id}/content',
  tags,
  summary: "Download a file's bytes",
  request: { params },
  responses: { ...bytesAnswer(), ...errors(400, 404, 416) },
});

const remove = createRoute({
  method: 'delete',
  path: '/v1/files/{file_id}',
  tags,
  summary: 'Delete a file',
  request: { params },
  responses: { ...ok(fileDeletedSchema), ...errors(404) },
});

export function fileRoutes(app: App, deps: Dependencies): void {
  app.openapi(upload, async (c) => {
    const receive = (sink: Parameters<typeof readForm>[2]) => readForm(c, deps.config.maxFileBytes, sink);
    return c.json(presentFile(await createFile(deps, c.var.identity.projectId, receive)), 200);
  });

  app.openapi(list, async (c) => {
    const page = await pageOfFiles(deps, c.var.identity.projectId, c.req.valid('query'));
    return c.json(toListWithEnds(page, presentFile), 200);
  });

  app.openapi(retrieve, async (c) => {
    return c.json(
      presentFile(await getFile(deps, c.var.identity.projectId, c.req.valid('param').file_id)),
      200,
    );
  });

  app.openapi(content, async (c) => {
    const file = await openFile(deps, c.var.identity.projectId, c.req.valid('param').file_id);
    return (await download(c, file, file.open)) as never;
  });

  app.openapi(remove, async (c) => {
    const id = c.req.valid('param').file_id;
    await deleteFile(deps, c.var.identity.projectId, id);
    return c.json({ id, object: 'file' as const, deleted: true as const }, 200);
  });
}
