/**
 * The outermost middleware: gives the request its id, and the answer OpenAI's headers, a metric and a log line.
 */
import type { MiddlewareHandler } from 'hono';
import { newId } from '../ids.ts';
import type { Log } from '../log.ts';
import { type AppEnv, logFields, routeOf } from './context.ts';
import type { Metrics } from './metrics.ts';

const CLIENT_ID = /^[\x21-\x7e]{1,128}$/;
const QUIET = new Set(['/healthz', '/readyz', '/metrics']);

/** Must be the first middleware: everything after it may use `requestId` and logOf(). */
export function conversation(log: Log, metrics: Metrics): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const started = performance.now();
    const requestId = newId('req_');
    c.set('requestId', requestId);
    c.set('log', log);
    await next();

    const milliseconds = performance.now() - started;
    const route = routeOf(c) ?? 'unknown';
    const identity = c.get('identity');
    const clientId = c.req.header('x-client-request-id');
    const headers = c.res.headers;
    headers.set('x-request-id', requestId);
    if (clientId && CLIENT_ID.test(clientId)) headers.set('x-client-request-id', clientId);
    headers.set('openai-version', '2020-10-01');
    headers.set('openai-processing-ms', String(Math.round(milliseconds)));
    headers.set('x-content-type-options', 'nosniff');
    if (identity) {
      headers.set('openai-organization', identity.organization.slug);
      if (identity.projectId !== '') headers.set('openai-project', identity.projectId);
    }
    metrics.observe(c.req.method, route, c.res.status, milliseconds / 1000);
    const line = {
      ...logFields(c),
      method: c.req.method,
      route,
      status: c.res.status,
      ms: Math.round(milliseconds),
      key: identity?.keyId,
    };
    if (QUIET.has(route)) log.debug(line, 'request');
    else log.info(line, 'request');
  };
}
