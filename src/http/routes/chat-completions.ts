/** /v1/chat/completions: plain and streamed. */
import { createRoute } from '@hono/zod-openapi';
import { startCompletion } from '../../domain/chat/complete.ts';
import { requireRoomFor, storeCompletion } from '../../domain/chat/stored.ts';
import type { Dependencies } from '../../domain/dependencies.ts';
import { completionChunks, wholeCompletion } from '../chat-objects.ts';
import { type App, logOf } from '../context.ts';
import { onDrainOver } from '../drain.ts';
import { toPublicError } from '../error-handler.ts';
import { whileKeyLives } from '../revocation.ts';
import { type ChatCompletion, chunkSchema, completionSchema } from '../schemas/chat-answer.ts';
import { createCompletionSchema, toChatRequest } from '../schemas/chat-completion.ts';
import { toStored } from '../schemas/chat-stored.ts';
import { errors } from '../schemas/error.ts';
import { checkSchemas } from '../schemas/schema-check.ts';
import { eventStream, settledWithin } from '../sse.ts';

/**
 * A stream that fails within this time answers with a status; after it the headers go out, so that proxies see a living
 * connection while the request waits its turn, and a failure becomes an event.
 */
const FIRST_TOKEN_MS = 10_000;

const create = createRoute({
  method: 'post',
  path: '/v1/chat/completions',
  tags: ['Chat'],
  summary: 'Create a chat completion',
  request: { body: { required: true, content: { 'application/json': { schema: createCompletionSchema } } } },
  responses: {
    200: {
      description:
        'The completion; with `stream`, server-sent events, the data of each a chunk and of the last `[DONE]`.',
      content: {
        'application/json': { schema: completionSchema },
        'text/event-stream': { schema: chunkSchema },
      },
    },
    ...errors(400, 403, 404, 413, 415, 429),
  },
});

export function chatCompletionRoutes(app: App, deps: Dependencies): void {
  app.openapi(create, async (c) => {
    const body = c.req.valid('json');
    const left = new AbortController();
    const signal = AbortSignal.any([c.req.raw.signal, left.signal]);
    onDrainOver(c, (error) => left.abort(error));
    const request = toChatRequest(body);
    await checkSchemas(body);
    const { projectId } = c.var.identity;
    if (body.store) await requireRoomFor(deps, projectId, body.messages);
    const answer = {
      n: request.sampling.n,
      logprobs: request.sampling.logprobs,
      legacyFunctions: Boolean(body.functions),
    };
    const store = async (completion: ChatCompletion): Promise<void> => {
      if (!body.store) return;
      await storeCompletion(deps, projectId, toStored(body, c.var.requestId, completion));
    };
    const starting = startCompletion({ ...deps, log: logOf(c) }, projectId, request, signal);
    if (!body.stream) {
      const completion = await wholeCompletion(await starting, answer);
      await store(completion);
      return c.json(completion, 200);
    }
    await settledWithin(starting, FIRST_TOKEN_MS);
    const includeUsage = body.stream_options?.include_usage ?? false;
    const onFailure = (error: unknown) => toPublicError(error, c);
    const options = { ...answer, includeUsage, onFailure, ...(body.store ? { onEnd: store } : {}) };
    const chunks = completionChunks(starting, options, signal);
    return eventStream(
      whileKeyLives(c, deps, chunks, () => left.abort()),
      () => left.abort(),
    );
  });
}
