/**
 * Answers for URLs without a handler: 405 with Allow where another method would have one, 404 otherwise.
 */
import type { NotFoundHandler } from 'hono';
import { methodNotAllowed, unknownUrl } from '../errors.ts';
import type { App, AppEnv } from './context.ts';
import { errorResponse } from './error-handler.ts';

const METHODS = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'];

export function notFound(app: App): NotFoundHandler<AppEnv> {
  return (c) => {
    const path = c.req.path;
    const shown = path.slice(0, 200);
    const allowed = METHODS.filter((method) =>
      app.router.match(method, path)[0].some(([[, route]]) => route.method === method),
    );
    if (allowed.length === 0) return errorResponse(c, unknownUrl(c.req.method, shown));
    c.header('allow', (allowed.includes('GET') ? [...allowed, 'HEAD'] : allowed).join(', '));
    return errorResponse(c, methodNotAllowed(c.req.method, shown));
  };
}
