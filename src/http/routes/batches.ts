/** /v1/batches: create, list, retrieve, cancel. */
import { createRoute, z } from '@hono/zod-openapi';
import { cancelBatch, createBatch, getBatch, pageOfBatches } from '../../domain/batches/create.ts';
import type { Dependencies } from '../../domain/dependencies.ts';
import type { App } from '../context.ts';
import { idFor } from '../idempotency.ts';
import { batchSchema, createBatchSchema, presentBatch } from '../schemas/batch.ts';
import { errors, ok } from '../schemas/error.ts';
import { cursor, listWithEnds, pageSize, toListWithEnds } from '../schemas/list.ts';

const tags = ['Batches'];
const params = z.object({ batch_id: z.string() });

const create = createRoute({
  method: 'post',
  path: '/v1/batches',
  tags,
  summary: 'Create a batch',
  request: { body: { required: true, content: { 'application/json': { schema: createBatchSchema } } } },
  responses: { ...ok(batchSchema), ...errors(400, 413, 415, 429) },
});

const list = createRoute({
  method: 'get',
  path: '/v1/batches',
  tags,
  summary: 'List batches',
  request: { query: z.object({ limit: pageSize(100, 20), after: cursor }) },
  responses: { ...ok(listWithEnds(batchSchema)), ...errors(400) },
});

const retrieve = createRoute({
  method: 'get',
  path: '/v1/batches/{batch_id}',
  tags,
  summary: 'Retrieve a batch',
  request: { params },
  responses: { ...ok(batchSchema), ...errors(404) },
});

const cancel = createRoute({
  method: 'post',
  path: '/v1/batches/{batch_id}/cancel',
  tags,
  summary: 'Cancel a batch',
  request: { params },
  responses: { ...ok(batchSchema), ...errors(404, 409) },
});

export function batchRoutes(app: App, deps: Dependencies): void {
  app.openapi(create, async (c) => {
    const body = c.req.valid('json');
    const fields = {
      endpoint: body.endpoint,
      inputFileId: body.input_file_id,
      completionWindow: body.completion_window,
      metadata: body.metadata ?? null,
      outputExpiresSeconds: body.output_expires_after?.seconds ?? null,
    };
    return c.json(presentBatch(await createBatch(deps, c.var.identity, fields, idFor(c, 'batch_'))), 200);
  });

  app.openapi(list, async (c) => {
    const page = await pageOfBatches(deps, c.var.identity.projectId, c.req.valid('query'));
    return c.json(toListWithEnds(page, presentBatch), 200);
  });

  app.openapi(retrieve, async (c) => {
    const { batch_id: id } = c.req.valid('param');
    return c.json(presentBatch(await getBatch(deps, c.var.identity.projectId, id)), 200);
  });

  app.openapi(cancel, async (c) => {
    const { batch_id: id } = c.req.valid('param');
    return c.json(presentBatch(await cancelBatch(deps, c.var.identity.projectId, id)), 200);
  });
}
