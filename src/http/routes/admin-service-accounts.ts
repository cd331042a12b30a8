/** /v1/organization/projects/{project_id}/service_accounts: who holds a project's keys, and with which role. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Dependencies } from '../../domain/dependencies.ts';
import { strictObject } from '../../domain/jobs/parameters.ts';
import { ROLES } from '../../domain/keys/scopes.ts';
import {
  createProjectKey,
  createServiceAccount,
  deleteAccount,
  getAccount,
  modifyAccount,
  pageOfAccounts,
} from '../../domain/projects/project-keys.ts';
import { getActiveProject, getProject } from '../../domain/projects/projects.ts';
import type { App } from '../context.ts';
import {
  accountSchema,
  createAccountKeySchema,
  deletedSchema,
  expiresInSeconds,
  newAccountKeySchema,
  newAccountSchema,
  objectName,
  presentAccount,
  presentAccountKey,
} from '../schemas/admin.ts';
import { errors, ok } from '../schemas/error.ts';
import { cursor, listWithEnds, pageSize, toListWithEnds } from '../schemas/list.ts';

const tags = ['Administration'];
const path = '/v1/organization/projects/{project_id}/service_accounts' as const;
const ofProject = z.object({ project_id: z.string() });
const ofAccount = ofProject.extend({ service_account_id: z.string() });
const json = <S extends z.ZodType>(schema: S) => ({
  body: { required: true, content: { 'application/json': { schema } } },
});

const create = createRoute({
  method: 'post',
  path,
  tags,
  summary: 'Create a service account (role member) with a first API key',
  request: {
    params: ofProject,
    ...json(
      strictObject({
        name: objectName,
        create_service_account_only: z.boolean().nullish(),
        expires_in_seconds: expiresInSeconds.nullish(),
      }).openapi('CreateServiceAccountRequest'),
    ),
  },
  responses: { ...ok(newAccountSchema), ...errors(400, 404, 413, 415) },
});

const list = createRoute({
  method: 'get',
  path,
  tags,
  summary: "List a project's service accounts",
  request: { params: ofProject, query: z.object({ limit: pageSize(100, 20), after: cursor }) },
  responses: { ...ok(listWithEnds(accountSchema)), ...errors(400, 404) },
});

const retrieve = createRoute({
  method: 'get',
  path: `${path}/{service_account_id}`,
  tags,
  summary: 'Retrieve a service account',
  request: { params: ofAccount },
  responses: { ...ok(accountSchema), ...errors(404) },
});

const modify = createRoute({
  method: 'post',
  path: `${path}/{service_account_id}`,
  tags,
  summary: 'Rename a service account or change its role; in force within 5 seconds',
  request: {
    params: ofAccount,
    ...json(
      strictObject({ name: objectName.optional(), role: z.enum(ROLES).optional() }).openapi(
        'ModifyServiceAccountRequest',
      ),
    ),
  },
  responses: { ...ok(accountSchema), ...errors(400, 404, 413, 415) },
});

const remove = createRoute({
  method: 'delete',
  path: `${path}/{service_account_id}`,
  tags,
  summary: 'Delete a service account and revoke its keys',
  request: { params: ofAccount },
  responses: { ...ok(deletedSchema('organization.project.service_account.deleted')), ...errors(404) },
});

const createKey = createRoute({
  method: 'post',
  path: `${path}/{service_account_id}/api_keys`,
  tags,
  summary: 'Create an API key of a service account',
  request: { params: ofAccount, ...json(createAccountKeySchema) },
  responses: { ...ok(newAccountKeySchema), ...errors(400, 404, 413, 415) },
});

export function adminServiceAccountRoutes(app: App, deps: Dependencies): void {
  app.openapi(create, async (c) => {
    const { organization } = c.var.identity;
    const project = await getActiveProject(deps, organization.id, c.req.valid('param').project_id);
    const body = c.req.valid('json');
    const { account, key } = await createServiceAccount(deps, project.id, {
      name: body.name,
      withKey: body.create_service_account_only !== true,
      expiresInSeconds: body.expires_in_seconds,
    });
    return c.json({ ...presentAccount(account), api_key: key && presentAccountKey(key) }, 200);
  });

  app.openapi(list, async (c) => {
    const { organization } = c.var.identity;
    const project = await getProject(deps, organization.id, c.req.valid('param').project_id);
    const page = await pageOfAccounts(deps, project.id, c.req.valid('query'));
    return c.json(toListWithEnds(page, presentAccount), 200);
  });

  app.openapi(retrieve, async (c) => {
    const { project_id, service_account_id } = c.req.valid('param');
    const project = await getProject(deps, c.var.identity.organization.id, project_id);
    return c.json(presentAccount(await getAccount(deps, project.id, service_account_id)), 200);
  });

  app.openapi(modify, async (c) => {
    const { project_id, service_account_id } = c.req.valid('param');
    const project = await getActiveProject(deps, c.var.identity.organization.id, project_id);
    const changed = await modifyAccount(deps, project.id, service_account_id, c.req.valid('json'));
    return c.json(presentAccount(changed), 200);
  });

  app.openapi(remove, async (c) => {
    const { project_id, service_account_id } = c.req.valid('param');
    const project = await getProject(deps, c.var.identity.organization.id, project_id);
    await deleteAccount(deps, project.id, service_account_id);
    const object = 'organization.project.service_account.deleted' as const;
    return c.json({ id: service_account_id, object, deleted: true as const }, 200);
  });

  app.openapi(createKey, async (c) => {
    const { project_id, service_account_id } = c.req.valid('param');
    const project = await getActiveProject(deps, c.var.identity.organization.id, project_id);
    const { name = 'Secret Key', scopes, expires_in_seconds: expiresInSeconds } = c.req.valid('json');
    const request = { name, scopes, expiresInSeconds };
    const key = await createProjectKey(deps, project.id, request, service_account_id);
    return c.json(presentAccountKey(key), 200);
  });
}
