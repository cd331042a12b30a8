/** Stored chat completions: list, retrieve, give metadata, delete, and the messages that were asked. */
import { createRoute, z } from '@hono/zod-openapi';
import { getMessages, getStored, pageOfStored, removeStored, setMetadata } from '../../domain/chat/stored.ts';
import type { Dependencies } from '../../domain/dependencies.ts';
import type { App } from '../context.ts';
import {
  completionDeletedSchema,
  storedCompletionSchema,
  storedMessageSchema,
} from '../schemas/chat-answer.ts';
import { presentMessages, presentStored, updateStoredSchema } from '../schemas/chat-stored.ts';
import { errors, ok } from '../schemas/error.ts';
import { cursor, listWithEnds, pageSize, toListWithEnds } from '../schemas/list.ts';
import { metadataFilter, metadataQuery } from '../schemas/metadata.ts';

const tags = ['Chat'];
const params = z.object({ completion_id: z.string() });
const path = '/v1/chat/completions/{completion_id}';
const page = { limit: pageSize(100, 20), after: cursor, order: z.enum(['asc', 'desc']).default('asc') };

const list = createRoute({
  method: 'get',
  path: '/v1/chat/completions',
  tags,
  summary: 'List stored chat completions',
  request: { query: z.object({ ...page, model: z.string().optional(), metadata: metadataQuery }) },
  responses: { ...ok(listWithEnds(storedCompletionSchema)), ...errors(400) },
});

const retrieve = createRoute({
  method: 'get',
  path,
  tags,
  summary: 'Retrieve a stored chat completion',
  request: { params },
  responses: { ...ok(storedCompletionSchema), ...errors(404) },
});

const update = createRoute({
  method: 'post',
  path,
  tags,
  summary: 'Replace the metadata of a stored chat completion',
  request: {
    params,
    body: { required: true, content: { 'application/json': { schema: updateStoredSchema } } },
  },
  responses: { ...ok(storedCompletionSchema), ...errors(400, 404, 413, 415) },
});

const remove = createRoute({
  method: 'delete',
  path,
  tags,
  summary: 'Delete a stored chat completion',
  request: { params },
  responses: { ...ok(completionDeletedSchema), ...errors(404) },
});

const messages = createRoute({
  method: 'get',
  path: `${path}/messages`,
  tags,
  summary: 'List the messages of a stored chat completion',
  request: { params, query: z.object(page) },
  responses: { ...ok(listWithEnds(storedMessageSchema)), ...errors(400, 404) },
});

export function chatStoredRoutes(app: App, deps: Dependencies): void {
  app.openapi(list, async (c) => {
    const { limit, after, order, model } = c.req.valid('query');
    const query = { limit, after, order, model, metadata: metadataFilter(c.req.queries()) };
    return c.json(
      toListWithEnds(await pageOfStored(deps, c.var.identity.projectId, query), presentStored),
      200,
    );
  });

  app.openapi(retrieve, async (c) => {
    const { completion_id: id } = c.req.valid('param');
    return c.json(presentStored(await getStored(deps, c.var.identity.projectId, id)), 200);
  });

  app.openapi(update, async (c) => {
    const { completion_id: id } = c.req.valid('param');
    const { metadata } = c.req.valid('json');
    return c.json(presentStored(await setMetadata(deps, c.var.identity.projectId, id, metadata)), 200);
  });

  app.openapi(remove, async (c) => {
    const { completion_id: id } = c.req.valid('param');
    await removeStored(deps, c.var.identity.projectId, id);
    return c.json({ id, object: 'chat.completion.deleted' as const, deleted: true as const }, 200);
  });

  app.openapi(messages, async (c) => {
    const { completion_id: id } = c.req.valid('param');
    const row = await getMessages(deps, c.var.identity.projectId, id);
    return c.json(
      toListWithEnds(presentMessages(row, c.req.valid('query')), (message) => message),
      200,
    );
  });
}
