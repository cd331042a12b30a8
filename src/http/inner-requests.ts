/**
 * The endpoints once more, without a door: requests that the service makes itself on behalf of a project. They pass
 * the same schemas and routes as a client's and get the same answers; keys and sockets play no part.
 */
import { OpenAPIHono } from '@hono/zod-openapi';
import type { AnswerRequest } from '../domain/answer-request.ts';
import type { Dependencies } from '../domain/dependencies.ts';
import type { Identity } from '../domain/keys/lookup.ts';
import { newId } from '../ids.ts';
import type { AppEnv } from './context.ts';
import { errorHandler } from './error-handler.ts';
import { rateLimit } from './rate-limit.ts';
import { chatCompletionRoutes } from './routes/chat-completions.ts';
import { completionRoutes } from './routes/completions.ts';
import { toApiError } from './validation-error.ts';

interface Inner {
  identity: Identity;
  body: Record<string, unknown>;
}

/** Endpoints that answer inner requests. */
export const INNER_ENDPOINTS = ['/v1/chat/completions', '/v1/completions'] as const;

/**
 * Makes the way in; one for the life of the process. With `limited` a request spends the project's requests and tokens
 * a minute, as one from outside does; batches have room of their own instead.
 */
export function innerRequests(deps: Dependencies, { limited }: { limited: boolean }): AnswerRequest {
  const inner = new WeakMap<Request, Inner>();
  const app = new OpenAPIHono<AppEnv>({
    defaultHook: (result) => {
      if (!result.success) throw toApiError(result.error, (result as { data?: unknown }).data);
    },
  });
  app.use(async (c, next) => {
    const from = inner.get(c.req.raw);
    if (!from) throw new Error('An inner request came from outside.');
    const requestId = newId('req_');
    c.set('identity', from.identity);
    c.set('requestId', requestId);
    c.set('log', deps.log.child({ request_id: requestId, project: from.identity.projectId, inner: true }));
    c.req.json = (async () => from.body) as typeof c.req.json;
    await next();
    c.res.headers.set('x-request-id', requestId);
  });
  if (limited) app.use(rateLimit(deps));
  app.onError(errorHandler);
  chatCompletionRoutes(app, deps);
  completionRoutes(app, deps);

  return async (identity, endpoint, body, signal) => {
    const request = new Request(`http://inner${endpoint}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      signal,
    });
    inner.set(request, { identity, body });
    const response = await app.fetch(request);
    const text = await response.text();
    signal.throwIfAborted();
    const retryAfter = Number(response.headers.get('retry-after') ?? Number.NaN);
    return {
      status: response.status,
      requestId: response.headers.get('x-request-id') ?? '',
      text,
      retryAfterSeconds: Number.isFinite(retryAfter) ? retryAfter : null,
      isFinal: response.headers.get('x-should-retry') === 'false',
    };
  };
}
