/**
 * Requests and tokens a minute on routes marked `rateLimited` in scopes.ts: OpenAI's headers on every answer under a
 * limit, 429 when it is spent. A request counts as OpenAI counts it: the larger of what it may generate and an estimate
 * of its text.
 */
import type { MiddlewareHandler } from 'hono';
import type { Dependencies } from '../domain/dependencies.ts';
import { type Spent, spend } from '../domain/quotas/rate-limits.ts';
import { type AppEnv, routeOf } from './context.ts';
import { ruleOf } from './scopes.ts';

const BYTES_PER_TOKEN = 4;
/** What a text completion generates unless it is told otherwise. */
const TEXT_TOKENS = 16;

/** Must stand after auth and the body guard. */
export function rateLimit(deps: Dependencies): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    if (c.req.method !== 'POST') return next();
    const route = routeOf(c);
    if (route === null || !ruleOf('POST', route)?.rateLimited) return next();
    const body = (await c.req.json().catch(() => null)) as unknown;
    const model = (body as { model?: unknown } | null)?.model;
    if (typeof model !== 'string') return next(); // the route says what is wrong with it
    const headers = new Map<string, string>();
    try {
      await spend(deps, c.get('identity'), model, countedTokens(body as Record<string, unknown>), (spent) => {
        for (const [name, value] of headersOf(spent)) headers.set(name, value);
      });
    } catch (error) {
      for (const [name, value] of headers) c.header(name, value);
      throw error;
    }
    await next();
    for (const [name, value] of headers) c.res.headers.set(name, value);
  };
}

/** Tokens that a request is charged for before it runs: of every choice of every prompt, those of `best_of` too. */
export function countedTokens(body: Record<string, unknown>): number {
  const text = JSON.stringify(body.messages ?? body.prompt ?? '');
  const whole = (value: unknown, otherwise: number) =>
    typeof value === 'number' && Number.isInteger(value) && value > 0 ? value : otherwise;
  const { prompt } = body;
  const each = whole(
    body.max_completion_tokens,
    whole(body.max_tokens, prompt === undefined ? 0 : TEXT_TOKENS),
  );
  const choices = Math.max(whole(body.n, 1), whole(body.best_of, 1));
  const prompts = Array.isArray(prompt) && typeof prompt[0] !== 'number' ? prompt.length : 1;
  return Math.max(each * choices * prompts, Math.ceil(Buffer.byteLength(text) / BYTES_PER_TOKEN));
}

function* headersOf(spent: Spent): Generator<[string, string]> {
  for (const kind of ['requests', 'tokens'] as const) {
    const bucket = spent[kind];
    if (!bucket) continue;
    yield [`x-ratelimit-limit-${kind}`, String(bucket.limit)];
    yield [`x-ratelimit-remaining-${kind}`, String(bucket.remaining)];
    yield [`x-ratelimit-reset-${kind}`, duration(bucket.resetSeconds)];
  }
}

/** As OpenAI writes a duration: "12ms", "7.66s", "6m0s". */
export function duration(seconds: number): string {
  if (seconds < 1) return `${Math.ceil(seconds * 1000)}ms`;
  const rounded = Math.ceil(seconds * 1000) / 1000;
  if (rounded < 60) return `${rounded}s`;
  const whole = Math.ceil(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  return `${hours > 0 ? `${hours}h` : ''}${minutes}m${whole % 60}s`;
}
