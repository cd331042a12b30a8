/**
 * /v1/fine_tuning/checkpoints/{checkpoint}/permissions: create, list, delete. The checkpoint's id may hold ':' and '/',
 * raw or percent-encoded.
 */
import { createRoute, z } from '@hono/zod-openapi';
import type { Dependencies } from '../../domain/dependencies.ts';
import { strictObject } from '../../domain/jobs/parameters.ts';
import type { PermissionRow } from '../../domain/jobs/permission-repository.ts';
import { pageOfPermissions, shareModel, withdrawPermission } from '../../domain/jobs/permissions.ts';
import type { App } from '../context.ts';
import { errors, ok } from '../schemas/error.ts';
import { cursor, listWithEnds, pageSize, toListWithEnds } from '../schemas/list.ts';
import { toUnix, unixSeconds } from '../schemas/time.ts';

const tags = ['Fine-tuning'];
/** The pattern takes slashes too; openapi.ts shows it as {fine_tuned_model_checkpoint}. */
const path =
  '/v1/fine_tuning/checkpoints/{fine_tuned_model_checkpoint{.+}}/permissions' as '/v1/fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions';
const params = z.object({ fine_tuned_model_checkpoint: z.string() });

const permissionSchema = z
  .object({
    object: z.literal('checkpoint.permission'),
    id: z.string().openapi({ example: 'cp_abc123' }),
    created_at: unixSeconds,
    project_id: z.string(),
  })
  .openapi('FineTuningCheckpointPermission');

const present = (row: PermissionRow): z.infer<typeof permissionSchema> => ({
  object: 'checkpoint.permission',
  id: row.id,
  created_at: toUnix(row.createdAt),
  project_id: row.projectId,
});

const requestSchema = strictObject({
  project_ids: z.array(z.string().min(1).max(200)).min(1).max(100),
}).openapi('CreateFineTuningCheckpointPermissionRequest');

const create = createRoute({
  method: 'post',
  path,
  tags,
  summary: 'Let other projects of the organization use a tuned model',
  request: { params, body: { required: true, content: { 'application/json': { schema: requestSchema } } } },
  responses: { ...ok(listWithEnds(permissionSchema)), ...errors(400, 403, 404, 413, 415) },
});

const list = createRoute({
  method: 'get',
  path,
  tags,
  summary: 'List who may use a tuned model',
  request: {
    params,
    query: z.object({
      limit: pageSize(100, 10),
      after: cursor,
      order: z.enum(['ascending', 'descending']).default('descending'),
      project_id: z.string().min(1).max(200).optional(),
    }),
  },
  responses: { ...ok(listWithEnds(permissionSchema)), ...errors(400, 403, 404) },
});

const remove = createRoute({
  method: 'delete',
  path: `${path}/{permission_id}`,
  tags,
  summary: 'Take a permission back',
  request: { params: params.extend({ permission_id: z.string() }) },
  responses: {
    ...ok(z.object({ id: z.string(), object: z.literal('checkpoint.permission'), deleted: z.literal(true) })),
    ...errors(403, 404),
  },
});

export function fineTuningPermissionRoutes(app: App, deps: Dependencies): void {
  app.openapi(create, async (c) => {
    const { fine_tuned_model_checkpoint: model } = c.req.valid('param');
    const rows = await shareModel(deps, c.var.identity, model, c.req.valid('json').project_ids);
    return c.json(toListWithEnds({ items: rows, hasMore: false }, present), 200);
  });

  app.openapi(list, async (c) => {
    const { fine_tuned_model_checkpoint: model } = c.req.valid('param');
    const page = await pageOfPermissions(deps, c.var.identity, model, c.req.valid('query'));
    return c.json(toListWithEnds(page, present), 200);
  });

  app.openapi(remove, async (c) => {
    const { fine_tuned_model_checkpoint: model, permission_id: id } = c.req.valid('param');
    await withdrawPermission(deps, c.var.identity, model, id);
    return c.json({ id, object: 'checkpoint.permission' as const, deleted: true as const }, 200);
  });
}
