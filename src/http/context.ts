/**
 * What travels with a request through the middleware: its id, who asks, and the log, bound to both when it is needed.
 */
import type { HttpBindings } from '@hono/node-server';
import type { OpenAPIHono } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { matchedRoutes } from 'hono/route';
import type { Identity } from '../domain/keys/lookup.ts';
import type { Log } from '../log.ts';

export interface AppEnv {
  /** Absent when the app is called without a socket. */
  Bindings: Partial<HttpBindings>;
  Variables: {
    requestId: string;
    identity: Identity;
    /** The service's; logOf() binds it to the request. */
    log: Log;
    /** Tail of the id that a repeatable creation gives its object; set by idempotency.ts. */
    idempotencySeed?: string;
  };
}

export type App = OpenAPIHono<AppEnv>;
export type AppContext = Context<AppEnv>;

/** The pattern of the route that will answer ("/v1/files/:file_id"), or null when none matches path and method. */
export function routeOf(c: Context): string | null {
  return matchedRoutes(c).findLast((route) => route.method !== 'ALL')?.path ?? null;
}

/** What every log line of a request says: its id and who asks, once that is known. */
export function logFields(c: Context<AppEnv>): Record<string, string> {
  const identity = c.get('identity') as Identity | undefined;
  const request_id = c.get('requestId');
  if (identity === undefined) return { request_id };
  const { projectId, organization } = identity;
  return projectId === ''
    ? { request_id, organization: organization.id }
    : { request_id, project: projectId };
}

/** The log of this request. Made when asked for: most requests need no line but their one. */
export function logOf(c: Context<AppEnv>): Log {
  return c.get('log').child(logFields(c));
}
