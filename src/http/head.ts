/**
 * HEAD is answered by GET's handlers, whose body nobody will read: it is cancelled here, so that whatever feeds it (a
 * stream of events, bytes from storage) ends with the answer. Knows nothing of routes.
 */
import type { MiddlewareHandler } from 'hono';
import type { AppEnv } from './context.ts';

/** Must stand outside of every handler that may answer with a stream. */
export const bodylessHead: MiddlewareHandler<AppEnv> = async (c, next) => {
  await next();
  if (c.req.method !== 'HEAD' || !c.res.body) return;
  await c.res.body.cancel();
  c.res = new Response(null, c.res);
};
