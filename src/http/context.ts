/**
 * What travels with a request through the middleware: its id, who asks, and the log bound to both.
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
