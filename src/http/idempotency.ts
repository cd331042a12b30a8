/**
 * Creations that may be repeated: by `Idempotency-Key`, and, for jobs, by the SDKs' own retries, which carry no key but
 * count themselves. Only routes marked `idempotent` in scopes.ts; their answers hold no secrets.
 */
import { createHash } from 'node:crypto';
import type { MiddlewareHandler } from 'hono';
import type { Dependencies } from '../domain/dependencies.ts';
import { once, type Repeatable } from '../domain/idempotency/repeatable.ts';
import { badRequest } from '../errors.ts';
import { type IdPrefix, newId } from '../ids.ts';
import { type AppContext, type AppEnv, logOf, routeOf } from './context.ts';
import { ruleOf } from './scopes.ts';

const KEY = /^[\x21-\x7e]{1,255}$/;
const KEEP_SECONDS = 24 * 3600;
/** An SDK's last retry comes within its timeout (10 minutes by default) of the one before. */
const RETRY_KEEP_SECONDS = 30 * 60;
/** Creations that SDKs repeat at a cost: a second job trains a second time. */
const COUNTED_RETRIES = new Set(['POST /v1/fine_tuning/jobs']);

/** Must stand after auth and the body guard. */
export function idempotency(deps: Dependencies): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    if (c.req.method !== 'POST') return next();
    const route = routeOf(c);
    if (route === null || !ruleOf('POST', route)?.idempotent) return next();
    const request = await repeatable(c, route);
    if (!request) return next();
    const work = async (seed: string) => {
      c.set('idempotencySeed', seed);
      await next();
      return { status: c.res.status, body: await c.res.clone().text() };
    };
    const stored = await once({ ...deps, log: logOf(c) }, request, work, c.req.raw.signal);
    if (!stored) return;
    return c.body(stored.body, stored.status as 200, {
      'content-type': 'application/json',
      'idempotent-replayed': 'true',
    });
  };
}

/** The id of what this request creates: the same again when a repetition has to finish what the first one began. */
export function idFor(c: AppContext, prefix: IdPrefix): string {
  const seed = c.get('idempotencySeed');
  return seed === undefined ? newId(prefix) : prefix + seed;
}

async function repeatable(c: AppContext, route: string): Promise<Repeatable | null> {
  const key = c.req.header('idempotency-key');
  const retries = c.req.header('x-stainless-retry-count');
  if (key === undefined && !(COUNTED_RETRIES.has(`POST ${route}`) && /^\d{1,4}$/.test(retries ?? '')))
    return null;
  const { projectId, organization, keyId } = c.get('identity');
  const body = c.req.header('content-length') === '0' ? null : await c.req.json().catch(() => null);
  const fingerprint = sha256(`POST ${c.req.path}\n${JSON.stringify(body)}`);
  const owner = projectId || organization.id;
  if (key === undefined) {
    return {
      projectId: owner,
      key: `retry ${sha256(`${keyId}\n${fingerprint}`)}`, // no given key has a space
      fingerprint,
      keepSeconds: RETRY_KEEP_SECONDS,
      anew: Number(retries) === 0,
    };
  }
  if (!KEY.test(key)) {
    const message = "Invalid 'Idempotency-Key': expected 1 to 255 visible ASCII characters.";
    throw badRequest(message, 'Idempotency-Key', 'invalid_value');
  }
  return { projectId: owner, key, fingerprint, keepSeconds: KEEP_SECONDS, anew: false };
}

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
