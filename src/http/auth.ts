/**
 * Default deny: every route needs a key unless its pattern is listed here, and a key with the scope that scopes.ts gives
 * for it. Decided on the pattern the router matched, never on the text of the URL.
 */
import { getConnInfo } from '@hono/node-server/conninfo';
import type { MiddlewareHandler } from 'hono';
import type { Dependencies } from '../domain/dependencies.ts';
import { authenticate } from '../domain/keys/lookup.ts';
import { invalidApiKey, missingApiKey } from '../errors.ts';
import { type AppContext, type AppEnv, routeOf } from './context.ts';
import { requireScope } from './scopes.ts';

/** Route patterns answered without a key. */
export const OPEN_ROUTES: ReadonlySet<string> = new Set([
  '/healthz',
  '/readyz',
  '/openapi.json',
  '/docs',
  '/docs/:asset',
]);
/** Answered without a key to this machine only. */
const LOCAL_ROUTES: ReadonlySet<string> = new Set(['/metrics']);
/** Credentials of another scheme are no key, and not shown. */
const BEARER_KEY = /^bearer[ \t]+(.+)$/i;

export function auth({ database }: Pick<Dependencies, 'database'>): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const route = routeOf(c);
    if (route !== null && (OPEN_ROUTES.has(route) || (LOCAL_ROUTES.has(route) && isLocal(c)))) return next();
    const header = c.req.header('authorization')?.trim() ?? '';
    const key = BEARER_KEY.exec(header)?.[1];
    if (key === undefined) throw missingApiKey();
    const identity = await authenticate(database, header);
    if (!identity) throw invalidApiKey(key);
    c.set('identity', identity);
    if (route !== null) requireScope(identity, c.req.method, route);
    return next();
  };
}

/** Whether the caller sits on this machine and no proxy stands between. */
function isLocal(c: AppContext): boolean {
  if (!c.env?.incoming || c.req.header('x-forwarded-for') || c.req.header('forwarded')) return false;
  const address = getConnInfo(c).remote.address ?? '';
  return address === '::1' || /^(::ffff:)?127\./.test(address);
}
