/** /v1/organization/admin_api_keys: the keys of the admin API itself. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Dependencies } from '../../domain/dependencies.ts';
import { strictObject } from '../../domain/jobs/parameters.ts';
import { createAdminKey, deleteAdminKey, getAdminKey, pageOfAdminKeys } from '../../domain/keys/admin.ts';
import { endsIn } from '../../domain/projects/project-keys.ts';
import type { App } from '../context.ts';
import {
  adminKeySchema,
  deletedSchema,
  expiresInSeconds,
  newAdminKeySchema,
  objectName,
  presentAdminKey,
} from '../schemas/admin.ts';
import { errors, ok } from '../schemas/error.ts';
import { cursor, listWithEnds, pageSize, toListWithEnds } from '../schemas/list.ts';

const tags = ['Administration'];
const path = '/v1/organization/admin_api_keys';
const params = z.object({ key_id: z.string() });

const create = createRoute({
  method: 'post',
  path,
  tags,
  summary: 'Create an admin API key',
  request: {
    body: {
      required: true,
      content: {
        'application/json': {
          schema: strictObject({ name: objectName, expires_in_seconds: expiresInSeconds.optional() }).openapi(
            'CreateAdminApiKeyRequest',
          ),
        },
      },
    },
  },
  responses: { ...ok(newAdminKeySchema), ...errors(400, 413, 415) },
});

const list = createRoute({
  method: 'get',
  path,
  tags,
  summary: 'List admin API keys',
  request: {
    query: z.object({
      limit: pageSize(100, 20),
      after: cursor,
      order: z.enum(['asc', 'desc']).default('desc'),
    }),
  },
  responses: { ...ok(listWithEnds(adminKeySchema)), ...errors(400) },
});

const retrieve = createRoute({
  method: 'get',
  path: `${path}/{key_id}`,
  tags,
  summary: 'Retrieve an admin API key',
  request: { params },
  responses: { ...ok(adminKeySchema), ...errors(404) },
});

const remove = createRoute({
  method: 'delete',
  path: `${path}/{key_id}`,
  tags,
  summary: 'Revoke an admin API key; refused within 5 seconds',
  request: { params },
  responses: { ...ok(deletedSchema('organization.admin_api_key.deleted')), ...errors(404) },
});

export function adminKeyRoutes(app: App, deps: Dependencies): void {
  app.openapi(create, async (c) => {
    const { organization } = c.var.identity;
    const { name, expires_in_seconds: seconds } = c.req.valid('json');
    const { row, key } = await createAdminKey(deps, organization.id, name, endsIn(seconds));
    return c.json({ ...presentAdminKey(row, organization), value: key }, 200);
  });

  app.openapi(list, async (c) => {
    const { organization } = c.var.identity;
    const page = await pageOfAdminKeys(deps, organization.id, c.req.valid('query'));
    return c.json(
      toListWithEnds(page, (row) => presentAdminKey(row, organization)),
      200,
    );
  });

  app.openapi(retrieve, async (c) => {
    const { organization } = c.var.identity;
    const row = await getAdminKey(deps, organization.id, c.req.valid('param').key_id);
    return c.json(presentAdminKey(row, organization), 200);
  });

  app.openapi(remove, async (c) => {
    const id = c.req.valid('param').key_id;
    await deleteAdminKey(deps, c.var.identity.organization.id, id);
    return c.json({ id, object: 'organization.admin_api_key.deleted' as const, deleted: true as const }, 200);
  });
}
