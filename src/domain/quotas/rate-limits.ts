/**
 * Requests and tokens a minute of a project, per base model: its tuned models and checkpoints spend from the same
 * bucket. The buckets lie in Postgres, so the limit holds over all API processes; a project without limits costs no
 * query. Knows nothing of HTTP but the error it throws.
 */
import type { Config } from '../../config.ts';
import type { Database } from '../../db/client.ts';
import { ApiError, badRequest, outOfRange, rateLimitReached } from '../../errors.ts';
import type { Dependencies } from '../dependencies.ts';
import type { Identity } from '../keys/lookup.ts';
import { resolveWrittenModel } from '../models/registry.ts';
import { type Bucket, listLimits, takeFromBucket, upsertLimit } from './repository.ts';

/** How a limit that is off is written where OpenAI's shape wants a number; given back, it turns the limit off. */
export const NO_LIMIT = 2 ** 31 - 1;
const CACHE_MS = 5_000;
const CACHE_PROJECTS = 10_000;

export interface RateLimit {
  model: string;
  /** A minute; NO_LIMIT = off. */
  requests: number;
  tokens: number;
}

/** What a bucket has after a request; `null` for a limit that is off. */
export interface Spent {
  requests: { limit: number; remaining: number; resetSeconds: number } | null;
  tokens: { limit: number; remaining: number; resetSeconds: number } | null;
}

type Deps = { database: Database; config: Pick<Config, 'requestsPerMinute' | 'tokensPerMinute'> };

/** The limits in force, one for each base model. */
export async function rateLimits({ database, config }: Deps, projectId: string): Promise<RateLimit[]> {
  const orOff = (stored: number | null, fallback: number) => (stored ?? fallback) || NO_LIMIT;
  const stored = await listLimits(database.db, projectId);
  return stored.map(({ model, maxRequests, maxTokens }) => ({
    model,
    requests: orOff(maxRequests, config.requestsPerMinute),
    tokens: orOff(maxTokens, config.tokensPerMinute),
  }));
}

/** Stores new limits; in force everywhere within 5 s. Null when there is no such base model. Throws ApiError 400. */
export async function changeRateLimit(
  deps: Deps,
  projectId: string,
  model: string,
  change: { requests?: number; tokens?: number },
): Promise<RateLimit | null> {
  if (!(await rateLimits(deps, projectId)).some((limit) => limit.model === model)) return null;
  if (change.requests === undefined && change.tokens === undefined) {
    const message = "Nothing to change: give 'max_requests_per_1_minute' or 'max_tokens_per_1_minute'.";
    throw badRequest(message, 'max_requests_per_1_minute', 'missing_required_parameter');
  }
  const stored = (value: number | undefined, param: string) => {
    if (value === undefined) return null;
    if (value < 1) throw outOfRange(param, value, { min: 1 }, 'integer');
    return value === NO_LIMIT ? 0 : value;
  };
  await upsertLimit(deps.database.db, projectId, {
    model,
    maxRequests: stored(change.requests, 'max_requests_per_1_minute'),
    maxTokens: stored(change.tokens, 'max_tokens_per_1_minute'),
  });
  cacheOf(deps.database).delete(projectId);
  return (await rateLimits(deps, projectId)).find((limit) => limit.model === model) ?? null;
}

/**
 * Spends one request and `tokens` of the minute of the base model behind `model`, which is any name that the endpoints
 * serve. Nothing is spent when no limit applies, nor for a model that does not exist. Throws ApiError 429 with the time
 * to wait; `onSpent` hears of the buckets in both cases.
 */
export async function spend(
  deps: Pick<Dependencies, 'database' | 'config'>,
  { projectId, organization }: Identity,
  model: string,
  tokens: number,
  onSpent: (spent: Spent) => void,
): Promise<void> {
  const limits = (await cachedLimits(deps, projectId)).filter(isOn);
  if (limits.length === 0) return;
  const base = await baseOf(deps, projectId, model);
  const limit = limits.find((each) => each.model === base);
  if (!limit) return;
  const refusal = { model, organization: organization.id, project: projectId };
  if (limit.tokens !== NO_LIMIT && tokens > limit.tokens) {
    throw rateLimitReached({
      ...refusal,
      kind: 'tokens',
      limit: limit.tokens,
      used: 0,
      requested: tokens,
      waitSeconds: null,
    });
  }
  const bucket = await takeFromBucket(deps.database.db, projectId, limit.model, limit, tokens);
  onSpent({
    requests: shown(limit.requests, bucket.requests),
    tokens: shown(limit.tokens, bucket.tokens),
  });
  if (!bucket.allowed) throw rateLimitReached({ ...refusal, ...shortage(limit, bucket, tokens) });
}

/** The bucket that is short for longer. */
function shortage(limit: RateLimit, bucket: Bucket, tokens: number) {
  const wait = {
    requests: missing(1, bucket.requests, limit.requests),
    tokens: missing(tokens, bucket.tokens, limit.tokens),
  };
  const kind = wait.tokens > wait.requests ? ('tokens' as const) : ('requests' as const);
  return {
    kind,
    limit: limit[kind],
    used: Math.max(0, limit[kind] - Math.floor(bucket[kind])),
    requested: kind === 'tokens' ? tokens : 1,
    waitSeconds: wait[kind],
  };
}

/** Seconds until a bucket that fills with `limit` a minute holds `needed`. */
const missing = (needed: number, has: number, limit: number) => Math.max(0, ((needed - has) * 60) / limit);

function shown(limit: number, has: number): Spent['requests'] {
  if (limit === NO_LIMIT) return null;
  return { limit, remaining: Math.max(0, Math.floor(has)), resetSeconds: missing(limit, has, limit) };
}

const isOn = ({ requests, tokens }: RateLimit) => requests !== NO_LIMIT || tokens !== NO_LIMIT;

/** The base model that would answer, looked up as the endpoints do: no spelling of a name passes by its limit. */
async function baseOf(
  deps: Pick<Dependencies, 'database'>,
  projectId: string,
  model: string,
): Promise<string | null> {
  try {
    return (await resolveWrittenModel(deps, projectId, model)).base.id;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null; // the route says that there is none
    throw error;
  }
}

type Cache = Map<string, { limits: RateLimit[]; until: number }>;
const caches = new WeakMap<Database, Cache>();

function cacheOf(database: Database): Cache {
  const cache = caches.get(database) ?? new Map();
  caches.set(database, cache);
  return cache;
}

async function cachedLimits(deps: Deps, projectId: string): Promise<RateLimit[]> {
  const cache = cacheOf(deps.database);
  const known = cache.get(projectId);
  if (known && known.until > performance.now()) return known.limits;
  const limits = await rateLimits(deps, projectId);
  if (cache.size >= CACHE_PROJECTS) cache.clear();
  cache.set(projectId, { limits, until: performance.now() + CACHE_MS });
  return limits;
}
