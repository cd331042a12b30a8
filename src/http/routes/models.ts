/** /v1/models: base models, tuned models and checkpoints. Ids may hold ':' and '/', raw or percent-encoded. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Dependencies } from '../../domain/dependencies.ts';
import { deleteModel, getModel, listModels } from '../../domain/models/registry.ts';
import type { App } from '../context.ts';
import { errors, ok } from '../schemas/error.ts';
import { modelDeletedSchema, modelSchema, presentModel } from '../schemas/model.ts';

const tags = ['Models'];
const params = z.object({ model: z.string() });
/** The pattern takes slashes too; openapi.ts shows it as {model}. */
const path = '/v1/models/{model{.+}}' as '/v1/models/{model}';

const list = createRoute({
  method: 'get',
  path: '/v1/models',
  tags,
  summary: 'List models',
  description:
    'Base models that some worker serves or can train, then the tuned models that the project may use, its own and those shared with it: the newest 10,000.',
  responses: {
    ...ok(z.object({ object: z.literal('list'), data: z.array(modelSchema) })),
    ...errors(),
  },
});

const retrieve = createRoute({
  method: 'get',
  path,
  tags,
  summary: 'Retrieve a model',
  request: { params },
  responses: { ...ok(modelSchema), ...errors(404) },
});

const remove = createRoute({
  method: 'delete',
  path,
  tags,
  summary: 'Delete a tuned model',
  request: { params },
  responses: { ...ok(modelDeletedSchema), ...errors(403, 404) },
});

export function modelRoutes(app: App, deps: Dependencies): void {
  app.openapi(list, async (c) => {
    const models = await listModels(deps, c.var.identity.projectId);
    return c.json({ object: 'list' as const, data: models.map(presentModel) }, 200);
  });

  app.openapi(retrieve, async (c) => {
    return c.json(
      presentModel(await getModel(deps, c.var.identity.projectId, c.req.valid('param').model)),
      200,
    );
  });

  app.openapi(remove, async (c) => {
    const id = c.req.valid('param').model;
    await deleteModel(deps, c.var.identity.projectId, id);
    return c.json({ id, object: 'model' as const, deleted: true as const }, 200);
  });
}
