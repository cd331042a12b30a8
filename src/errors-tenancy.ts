/**
 * Errors of keys, projects and limits, in OpenAI's words: the part of the catalogue (errors.ts) that tenancy needs.
 */
import { ApiError } from './errors.ts';

/** A live key that may not do this: its scopes, or the role of its account, leave `scope` out. */
export function insufficientScope(scope: string): ApiError {
  return new ApiError({
    status: 403,
    message:
      `You have insufficient permissions for this operation. Missing scopes: ${scope}. Check that you have the ` +
      "correct role in your project (Member, Owner), and if you're using a restricted API key, that it has the " +
      'necessary scopes.',
    code: 'insufficient_scope',
  });
}

export function noSuchProject(id: string): ApiError {
  const message = `No such project: ${id}`;
  return new ApiError({ status: 404, message, param: 'project_id', code: 'project_not_found' });
}

export function noSuchApiKey(id: string): ApiError {
  const message = `No such API key: ${id}`;
  return new ApiError({ status: 404, message, param: 'api_key_id', code: 'api_key_not_found' });
}

export function noSuchServiceAccount(id: string): ApiError {
  const message = `No such service account: ${id}`;
  return new ApiError({
    status: 404,
    message,
    param: 'service_account_id',
    code: 'service_account_not_found',
  });
}

export function noSuchRateLimit(id: string): ApiError {
  const message = `No such rate limit: ${id}`;
  return new ApiError({ status: 404, message, param: 'rate_limit_id', code: 'rate_limit_not_found' });
}

/** A limit of requests or tokens a minute, in OpenAI's words. `waitSeconds` null = the request alone is over the limit. */
export function rateLimitReached(limit: {
  model: string;
  organization: string;
  project: string;
  kind: 'requests' | 'tokens';
  limit: number;
  used: number;
  requested: number;
  waitSeconds: number | null;
}): ApiError {
  const { kind, waitSeconds } = limit;
  const what = kind === 'tokens' ? 'tokens per min (TPM)' : 'requests per min (RPM)';
  const place = `for ${limit.model} in project ${limit.project} organization ${limit.organization} on ${what}`;
  const message =
    waitSeconds === null
      ? `Request too large ${place}: Limit ${limit.limit}, Requested ${limit.requested}. Shorten the input or lower the output limit.`
      : `Rate limit reached ${place}: Limit ${limit.limit}, Used ${limit.used}, Requested ${limit.requested}. ` +
        `Please try again in ${Number(waitSeconds.toFixed(3))}s.`;
  return new ApiError({
    status: 429,
    message,
    type: kind,
    code: 'rate_limit_exceeded',
    headers:
      waitSeconds === null
        ? { 'x-should-retry': 'false' }
        : {
            'retry-after': String(Math.ceil(waitSeconds)),
            'retry-after-ms': String(Math.ceil(waitSeconds * 1000)),
          },
  });
}

/** A quota of the project. SDKs are told not to repeat it: what frees room takes longer than they wait. */
export function quotaReached(message: string, code: string, status: 403 | 429): ApiError {
  const headers: Record<string, string> = { 'x-should-retry': 'false' };
  if (status === 429) headers['retry-after'] = '60';
  return new ApiError({ status, message, type: 'insufficient_quota', code, headers });
}

/** The first request with this key still runs; SDKs repeat it. */
export function idempotencyKeyInUse(): ApiError {
  return new ApiError({
    status: 409,
    message: 'A request with the same Idempotency-Key is still being answered. Please try again in a moment.',
    code: 'idempotency_key_in_use',
    headers: { 'x-should-retry': 'true', 'retry-after': '1' },
  });
}
