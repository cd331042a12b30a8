/**
 * /v1/fine_tuning/adapters: an adapter in (import) and out (PEFT folder); /v1/fine_tuning/exports: merged models. Beyond
 * OpenAI's API, in places it does not use. Model ids may hold ':' and '/', raw or percent-encoded.
 */
import { createRoute, z } from '@hono/zod-openapi';
import { openAdapter, openExport } from '../../domain/adapters/download.ts';
import { createExport, deleteExport, getExport, pageOfExports } from '../../domain/adapters/exports.ts';
import { importAdapter } from '../../domain/adapters/import.ts';
import type { Dependencies } from '../../domain/dependencies.ts';
import type { App } from '../context.ts';
import { download } from '../download.ts';
import { readForm } from '../multipart.ts';
import {
  adapterBody,
  adapterQuery,
  createExportSchema,
  exportDeletedSchema,
  exportSchema,
  presentExport,
} from '../schemas/adapter.ts';
import { errors, ok } from '../schemas/error.ts';
import { bytesAnswer } from '../schemas/file.ts';
import { cursor, listOf, queryInteger, toList } from '../schemas/list.ts';
import { modelSchema, presentModel } from '../schemas/model.ts';

const tags = ['Adapters and exports'];
const params = z.object({ export_id: z.string() });
/** The form may repeat its file part: a folder's two files. One more is told as a repetition. */
const FORM_FILES = 4;

const bringIn = createRoute({
  method: 'post',
  path: '/v1/fine_tuning/adapters',
  tags,
  summary: 'Import an adapter: it becomes a model',
  request: { body: { required: true, content: adapterBody } },
  responses: { ...ok(modelSchema), ...errors(400, 413, 415, 429) },
});

const takeOut = createRoute({
  method: 'get',
  path: '/v1/fine_tuning/adapters/{model{.+}}' as '/v1/fine_tuning/adapters/{model}',
  tags,
  summary: "Download a tuned model's adapter",
  request: { params: z.object({ model: z.string() }), query: adapterQuery },
  responses: { ...bytesAnswer(), ...errors(400, 404, 416) },
});

const create = createRoute({
  method: 'post',
  path: '/v1/fine_tuning/exports',
  tags,
  summary: 'Export a tuned model, merged with its base',
  request: { body: { required: true, content: { 'application/json': { schema: createExportSchema } } } },
  responses: { ...ok(exportSchema), ...errors(400, 404, 413, 415) },
});

const list = createRoute({
  method: 'get',
  path: '/v1/fine_tuning/exports',
  tags,
  summary: 'List exports',
  request: { query: z.object({ limit: queryInteger(1, 100, 20), after: cursor }) },
  responses: { ...ok(listOf(exportSchema)), ...errors(400) },
});

const retrieve = createRoute({
  method: 'get',
  path: '/v1/fine_tuning/exports/{export_id}',
  tags,
  summary: 'Retrieve an export',
  request: { params },
  responses: { ...ok(exportSchema), ...errors(404) },
});

const content = createRoute({
  method: 'get',
  path: '/v1/fine_tuning/exports/{export_id}/content',
  tags,
  summary: 'Download an export: a Hugging Face folder in a tar',
  request: { params },
  responses: { ...bytesAnswer(), ...errors(400, 404, 416) },
});

const remove = createRoute({
  method: 'delete',
  path: '/v1/fine_tuning/exports/{export_id}',
  tags,
  summary: 'Delete an export',
  request: { params },
  responses: { ...ok(exportDeletedSchema), ...errors(404) },
});

export function adapterRoutes(app: App, deps: Dependencies): void {
  app.openapi(bringIn, async (c) => {
    const receive = (sink: Parameters<typeof readForm>[2]) =>
      readForm(c, deps.config.maxAdapterBytes, sink, { files: FORM_FILES });
    const { projectId } = c.var.identity;
    return c.json(presentModel(await importAdapter(deps, projectId, receive, c.req.raw.signal)), 200);
  });

  app.openapi(takeOut, async (c) => {
    const { model } = c.req.valid('param');
    const archive = await openAdapter(deps, c.var.identity.projectId, model, c.req.valid('query').format);
    return (await download(c, archive, archive.open)) as never;
  });

  app.openapi(create, async (c) => {
    const row = await createExport(deps, c.var.identity.projectId, c.req.valid('json').model);
    return c.json(presentExport(row), 200);
  });

  app.openapi(list, async (c) => {
    return c.json(
      toList(await pageOfExports(deps, c.var.identity.projectId, c.req.valid('query')), presentExport),
      200,
    );
  });

  app.openapi(retrieve, async (c) => {
    const row = await getExport(deps, c.var.identity.projectId, c.req.valid('param').export_id);
    return c.json(presentExport(row), 200);
  });

  app.openapi(content, async (c) => {
    const archive = await openExport(deps, c.var.identity.projectId, c.req.valid('param').export_id);
    return (await download(c, archive, archive.open)) as never;
  });

  app.openapi(remove, async (c) => {
    const id = c.req.valid('param').export_id;
    await deleteExport(deps, c.var.identity.projectId, id);
    return c.json({ id, object: 'fine_tuning.export' as const, deleted: true as const }, 200);
  });
}
