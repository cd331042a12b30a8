/** /v1/organization/projects: projects of the admin key's organization, and their rate limits. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Dependencies } from '../../domain/dependencies.ts';
import { integer, strictObject } from '../../domain/jobs/parameters.ts';
import {
  archiveProject,
  createProject,
  getActiveProject,
  getProject,
  modifyProject,
  pageOfProjects,
} from '../../domain/projects/projects.ts';
import { changeRateLimit, NO_LIMIT, type RateLimit, rateLimits } from '../../domain/quotas/rate-limits.ts';
import { invalidValue, noSuchRateLimit } from '../../errors.ts';
import type { App } from '../context.ts';
import { idFor } from '../idempotency.ts';
import { createProjectSchema, modifyProjectSchema, presentProject, projectSchema } from '../schemas/admin.ts';
import { errors, ok } from '../schemas/error.ts';
import { cursor, listWithEnds, pageSize, toListWithEnds } from '../schemas/list.ts';

const tags = ['Administration'];
const path = '/v1/organization/projects/{project_id}' as const;
const params = z.object({ project_id: z.string() });
const json = <S extends z.ZodType>(schema: S) => ({
  body: { required: true, content: { 'application/json': { schema } } },
});

const create = createRoute({
  method: 'post',
  path: '/v1/organization/projects',
  tags,
  summary: 'Create a project',
  request: json(createProjectSchema),
  responses: { ...ok(projectSchema), ...errors(400, 409, 413, 415) },
});

const list = createRoute({
  method: 'get',
  path: '/v1/organization/projects',
  tags,
  summary: 'List projects',
  request: {
    query: z.object({
      limit: pageSize(100, 20),
      after: cursor,
      include_archived: z.enum(['true', 'false']).default('false'),
    }),
  },
  responses: { ...ok(listWithEnds(projectSchema)), ...errors(400) },
});

const retrieve = createRoute({
  method: 'get',
  path,
  tags,
  summary: 'Retrieve a project',
  request: { params },
  responses: { ...ok(projectSchema), ...errors(404) },
});

const modify = createRoute({
  method: 'post',
  path,
  tags,
  summary: 'Modify a project',
  request: { params, ...json(modifyProjectSchema) },
  responses: { ...ok(projectSchema), ...errors(400, 404, 413, 415) },
});

const archive = createRoute({
  method: 'post',
  path: `${path}/archive`,
  tags,
  summary: 'Archive a project: its keys are refused from then on',
  request: { params },
  responses: { ...ok(projectSchema), ...errors(400, 404) },
});

const limitSchema = z
  .object({
    id: z.string().openapi({ example: 'rl-lathe-tiny' }),
    object: z.literal('project.rate_limit'),
    model: z.string(),
    max_requests_per_1_minute: z.int(),
    max_tokens_per_1_minute: z.int(),
  })
  .openapi('ProjectRateLimit', { description: `A limit that is off is ${NO_LIMIT}.` });

const listLimits = createRoute({
  method: 'get',
  path: `${path}/rate_limits`,
  tags,
  summary: "List a project's rate limits, one for each base model and what is tuned from it",
  request: { params, query: z.object({ limit: pageSize(1000, 100), after: cursor, before: cursor }) },
  responses: { ...ok(listWithEnds(limitSchema)), ...errors(400, 404) },
});

const perMinute = integer(1, NO_LIMIT).optional();
const modifyLimit = createRoute({
  method: 'post',
  // The id holds a model's name, which may hold slashes.
  path: `${path}/rate_limits/{rate_limit_id{.+}}` as `${typeof path}/rate_limits/{rate_limit_id}`,
  tags,
  summary: 'Modify a rate limit; in force within 5 seconds',
  request: {
    params: params.extend({ rate_limit_id: z.string() }),
    ...json(
      strictObject({ max_requests_per_1_minute: perMinute, max_tokens_per_1_minute: perMinute }).openapi(
        'ModifyProjectRateLimitRequest',
      ),
    ),
  },
  responses: { ...ok(limitSchema), ...errors(400, 404, 413, 415) },
});

export function adminProjectRoutes(app: App, deps: Dependencies): void {
  app.openapi(create, async (c) => {
    const { name } = c.req.valid('json');
    const project = await createProject(deps, c.var.identity.organization.id, name, idFor(c, 'proj_'));
    return c.json(presentProject(project), 200);
  });

  app.openapi(list, async (c) => {
    const { include_archived, ...query } = c.req.valid('query');
    const page = await pageOfProjects(deps, c.var.identity.organization.id, {
      ...query,
      includeArchived: include_archived === 'true',
    });
    return c.json(toListWithEnds(page, presentProject), 200);
  });

  app.openapi(retrieve, async (c) => {
    const id = c.req.valid('param').project_id;
    return c.json(presentProject(await getProject(deps, c.var.identity.organization.id, id)), 200);
  });

  app.openapi(modify, async (c) => {
    const { name, quotas } = c.req.valid('json');
    const change = {
      ...(name != null && { name }),
      ...(quotas?.max_active_jobs !== undefined && { maxActiveJobs: quotas.max_active_jobs }),
      ...(quotas?.max_files !== undefined && { maxFiles: quotas.max_files }),
      ...(quotas?.max_storage_bytes !== undefined && { maxStorageBytes: quotas.max_storage_bytes }),
    };
    const id = c.req.valid('param').project_id;
    return c.json(presentProject(await modifyProject(deps, c.var.identity.organization.id, id, change)), 200);
  });

  app.openapi(archive, async (c) => {
    const id = c.req.valid('param').project_id;
    return c.json(presentProject(await archiveProject(deps, c.var.identity.organization.id, id)), 200);
  });

  rateLimitRoutes(app, deps);
}

function rateLimitRoutes(app: App, deps: Dependencies): void {
  app.openapi(listLimits, async (c) => {
    const project = await getProject(deps, c.var.identity.organization.id, c.req.valid('param').project_id);
    const limits = (await rateLimits(deps, project.id)).map(presentLimit);
    return c.json(
      toListWithEnds(pageAround(limits, c.req.valid('query')), (limit) => limit),
      200,
    );
  });

  app.openapi(modifyLimit, async (c) => {
    const { project_id, rate_limit_id } = c.req.valid('param');
    const project = await getActiveProject(deps, c.var.identity.organization.id, project_id);
    const body = c.req.valid('json');
    const model = rate_limit_id.startsWith('rl-') ? rate_limit_id.slice(3) : '';
    const change = { requests: body.max_requests_per_1_minute, tokens: body.max_tokens_per_1_minute };
    const changed = await changeRateLimit(deps, project.id, model, change);
    if (!changed) throw noSuchRateLimit(rate_limit_id);
    return c.json(presentLimit(changed), 200);
  });
}

function presentLimit(limit: RateLimit): z.infer<typeof limitSchema> {
  return {
    id: `rl-${limit.model}`,
    object: 'project.rate_limit',
    model: limit.model,
    max_requests_per_1_minute: limit.requests,
    max_tokens_per_1_minute: limit.tokens,
  };
}

/** The items behind `after` or before `before`; there are as many as base models. */
function pageAround<T extends { id: string }>(
  items: T[],
  { limit, after, before }: { limit: number; after?: string; before?: string },
) {
  const place = (param: 'after' | 'before', id: string) => {
    const at = items.findIndex((item) => item.id === id);
    if (at < 0) throw invalidValue(param, `no rate limit '${id}' to continue from.`);
    return at;
  };
  if (before !== undefined) {
    const end = place('before', before);
    return { items: items.slice(Math.max(0, end - limit), end), hasMore: end > limit };
  }
  const start = after === undefined ? 0 : place('after', after) + 1;
  return { items: items.slice(start, start + limit), hasMore: items.length > start + limit };
}
