/** /v1/organization/projects/{project_id}/api_keys: keys of a project. Creating one this way is Lathe's own. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Dependencies } from '../../domain/dependencies.ts';
import {
  createProjectKey,
  deleteProjectKey,
  getProjectKey,
  modifyProjectKey,
  pageOfProjectKeys,
} from '../../domain/projects/project-keys.ts';
import { getActiveProject, getProject } from '../../domain/projects/projects.ts';
import type { App } from '../context.ts';
import {
  createKeySchema,
  deletedSchema,
  modifyKeySchema,
  newProjectKeySchema,
  presentProjectKey,
  projectKeySchema,
} from '../schemas/admin.ts';
import { errors, ok } from '../schemas/error.ts';
import { cursor, listWithEnds, pageSize, toListWithEnds } from '../schemas/list.ts';

const tags = ['Administration'];
const path = '/v1/organization/projects/{project_id}/api_keys' as const;
const ofProject = z.object({ project_id: z.string() });
const ofKey = ofProject.extend({ api_key_id: z.string() });

const create = createRoute({
  method: 'post',
  path,
  tags,
  summary: 'Create an API key of the project itself (role owner)',
  request: {
    params: ofProject,
    body: { required: true, content: { 'application/json': { schema: createKeySchema } } },
  },
  responses: { ...ok(newProjectKeySchema), ...errors(400, 404, 413, 415) },
});

const list = createRoute({
  method: 'get',
  path,
  tags,
  summary: "List a project's API keys",
  request: {
    params: ofProject,
    query: z.object({
      limit: pageSize(100, 20),
      after: cursor,
      owner_project_access: z.enum(['active', 'inactive', 'any']).default('any'),
    }),
  },
  responses: { ...ok(listWithEnds(projectKeySchema)), ...errors(400, 404) },
});

const retrieve = createRoute({
  method: 'get',
  path: `${path}/{api_key_id}`,
  tags,
  summary: 'Retrieve an API key',
  request: { params: ofKey },
  responses: { ...ok(projectKeySchema), ...errors(404) },
});

const modify = createRoute({
  method: 'post',
  path: `${path}/{api_key_id}`,
  tags,
  summary: 'Change the scopes or the end of an API key; in force within 5 seconds',
  request: {
    params: ofKey,
    body: { required: true, content: { 'application/json': { schema: modifyKeySchema } } },
  },
  responses: { ...ok(projectKeySchema), ...errors(400, 404, 413, 415) },
});

const remove = createRoute({
  method: 'delete',
  path: `${path}/{api_key_id}`,
  tags,
  summary: 'Revoke an API key; refused within 5 seconds',
  request: { params: ofKey },
  responses: { ...ok(deletedSchema('organization.project.api_key.deleted')), ...errors(404) },
});

export function adminProjectKeyRoutes(app: App, deps: Dependencies): void {
  app.openapi(create, async (c) => {
    const { organization } = c.var.identity;
    const project = await getActiveProject(deps, organization.id, c.req.valid('param').project_id);
    const { expires_in_seconds: expiresInSeconds, ...request } = c.req.valid('json');
    const created = await createProjectKey(deps, project.id, { ...request, expiresInSeconds });
    const row = await getProjectKey(deps, project.id, created.id);
    return c.json({ ...presentProjectKey(row, project), value: created.key }, 200);
  });

  app.openapi(list, async (c) => {
    const { organization } = c.var.identity;
    const project = await getProject(deps, organization.id, c.req.valid('param').project_id);
    const { owner_project_access: access, ...query } = c.req.valid('query');
    // Every owner of a key has access: an account that loses it loses its keys.
    const page =
      access === 'inactive'
        ? { items: [], hasMore: false }
        : await pageOfProjectKeys(deps, project.id, query);
    return c.json(
      toListWithEnds(page, (row) => presentProjectKey(row, project)),
      200,
    );
  });

  app.openapi(retrieve, async (c) => {
    const { project_id, api_key_id } = c.req.valid('param');
    const project = await getProject(deps, c.var.identity.organization.id, project_id);
    return c.json(presentProjectKey(await getProjectKey(deps, project.id, api_key_id), project), 200);
  });

  app.openapi(modify, async (c) => {
    const { project_id, api_key_id } = c.req.valid('param');
    const project = await getActiveProject(deps, c.var.identity.organization.id, project_id);
    const { scopes, expires_in_seconds: expiresInSeconds } = c.req.valid('json');
    const row = await modifyProjectKey(deps, project.id, api_key_id, { scopes, expiresInSeconds });
    return c.json(presentProjectKey(row, project), 200);
  });

  app.openapi(remove, async (c) => {
    const { project_id, api_key_id } = c.req.valid('param');
    const project = await getProject(deps, c.var.identity.organization.id, project_id);
    await deleteProjectKey(deps, project.id, api_key_id);
    const object = 'organization.project.api_key.deleted' as const;
    return c.json({ id: api_key_id, object, deleted: true as const }, 200);
  });
}
