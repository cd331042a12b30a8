/** /v1/webhook_endpoints: create, list, retrieve, update, delete, rotate the secret, send a sample. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Dependencies } from '../../domain/dependencies.ts';
import {
  changeEndpoint,
  createEndpoint,
  deleteEndpoint,
  getEndpoint,
  pageOfEndpoints,
  rotateSecret,
  testEndpoint,
} from '../../domain/webhooks/endpoints.ts';
import { WEBHOOK_EVENT_TYPES } from '../../domain/webhooks/event-types.ts';
import type { App } from '../context.ts';
import { errors, ok } from '../schemas/error.ts';
import { cursor, listWithEnds, pageSize, toListWithEnds } from '../schemas/list.ts';
import {
  createWebhookSchema,
  presentWebhook,
  presentWebhookWithSecret,
  rotateSecretSchema,
  testWebhookSchema,
  updateWebhookSchema,
  webhookDeletedSchema,
  webhookSchema,
  webhookTestSchema,
  webhookWithSecretSchema,
} from '../schemas/webhook.ts';

const tags = ['Webhooks'];
const path = '/v1/webhook_endpoints';
const one = '/v1/webhook_endpoints/{webhook_endpoint_id}';
const params = z.object({ webhook_endpoint_id: z.string() });
const bodyOf = <S extends z.ZodType>(schema: S, required = true) => ({
  required,
  content: { 'application/json': { schema } },
});

const routes = {
  create: createRoute({
    ...{ method: 'post', path, tags, summary: 'Create a webhook endpoint' },
    request: { body: bodyOf(createWebhookSchema) },
    responses: { ...ok(webhookWithSecretSchema), ...errors(400, 413, 415) },
  }),
  list: createRoute({
    ...{ method: 'get', path, tags, summary: 'List webhook endpoints' },
    request: { query: z.object({ limit: pageSize(100, 20), after: cursor }) },
    responses: { ...ok(listWithEnds(webhookSchema)), ...errors(400) },
  }),
  retrieve: createRoute({
    ...{ method: 'get', path: one, tags, summary: 'Retrieve a webhook endpoint' },
    request: { params },
    responses: { ...ok(webhookSchema), ...errors(404) },
  }),
  update: createRoute({
    ...{ method: 'post', path: one, tags, summary: 'Update a webhook endpoint' },
    request: { params, body: bodyOf(updateWebhookSchema, false) },
    responses: { ...ok(webhookSchema), ...errors(400, 404, 413, 415) },
  }),
  remove: createRoute({
    ...{ method: 'delete', path: one, tags, summary: 'Delete a webhook endpoint' },
    request: { params },
    responses: { ...ok(webhookDeletedSchema), ...errors(404) },
  }),
  rotate: createRoute({
    ...{ method: 'post', path: `${one}/rotate_secret`, tags, summary: 'Replace the signing secret' },
    request: { params, body: bodyOf(rotateSecretSchema, false) },
    responses: { ...ok(webhookWithSecretSchema), ...errors(400, 404, 413, 415) },
  }),
  test: createRoute({
    ...{ method: 'post', path: `${one}/test`, tags, summary: 'Send a sample event' },
    request: { params, body: bodyOf(testWebhookSchema) },
    responses: { ...ok(webhookTestSchema), ...errors(400, 404, 413, 415, 429) },
  }),
  types: createRoute({
    ...{ method: 'get', path: '/v1/webhook_event_types', tags, summary: 'List the types of events' },
    responses: { ...ok(z.object({ object: z.literal('list'), data: z.array(z.string()) })), ...errors() },
  }),
} as const;

export function webhookRoutes(app: App, deps: Dependencies): void {
  app.openapi(routes.create, async (c) => {
    const row = await createEndpoint(deps, c.var.identity.projectId, c.req.valid('json'));
    return c.json(presentWebhookWithSecret(row), 200);
  });

  app.openapi(routes.list, async (c) => {
    const page = await pageOfEndpoints(deps, c.var.identity.projectId, c.req.valid('query'));
    return c.json(toListWithEnds(page, presentWebhook), 200);
  });

  app.openapi(routes.retrieve, async (c) => {
    const { webhook_endpoint_id: id } = c.req.valid('param');
    return c.json(presentWebhook(await getEndpoint(deps, c.var.identity.projectId, id)), 200);
  });

  app.openapi(routes.update, async (c) => {
    const { webhook_endpoint_id: id } = c.req.valid('param');
    const row = await changeEndpoint(deps, c.var.identity.projectId, id, c.req.valid('json') ?? {});
    return c.json(presentWebhook(row), 200);
  });

  app.openapi(routes.remove, async (c) => {
    const { webhook_endpoint_id: id } = c.req.valid('param');
    await deleteEndpoint(deps, c.var.identity.projectId, id);
    return c.json({ id, object: 'webhook_endpoint.deleted' as const, deleted: true as const }, 200);
  });

  app.openapi(routes.rotate, async (c) => {
    const { webhook_endpoint_id: id } = c.req.valid('param');
    const keep = c.req.valid('json')?.keep_old_secret_active_for_24_hours ?? false;
    return c.json(
      presentWebhookWithSecret(await rotateSecret(deps, c.var.identity.projectId, id, keep)),
      200,
    );
  });

  app.openapi(routes.test, async (c) => {
    const { webhook_endpoint_id: id } = c.req.valid('param');
    const { event_type } = c.req.valid('json');
    const status_code = await testEndpoint(deps, c.var.identity.projectId, id, event_type);
    const object = 'webhook_endpoint.test' as const;
    return c.json({ object, webhook_endpoint_id: id, event_type, status_code, success: true as const }, 200);
  });

  app.openapi(routes.types, async (c) =>
    c.json({ object: 'list' as const, data: [...WEBHOOK_EVENT_TYPES] }, 200),
  );
}
