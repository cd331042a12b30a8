/** 429 and 5xx: the same request may be answered later. SDKs repeat it after `retry-after`, unless a header forbids it. */
import { ApiError } from './api-error.ts';

export function rateLimited(message: string, retryAfterSeconds: number): ApiError {
  return new ApiError({
    status: 429,
    message,
    type: 'rate_limit_error',
    code: 'rate_limit_exceeded',
    headers: { 'retry-after': String(retryAfterSeconds) },
  });
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

export function overloaded(message: string, retryAfterSeconds: number): ApiError {
  return new ApiError({
    status: 503,
    message,
    type: 'service_unavailable_error',
    code: 'server_is_overloaded',
    headers: { 'retry-after': String(retryAfterSeconds) },
  });
}

/** There is no room for what was sent; sending it again at once would not help. */
export function storageFull(): ApiError {
  return new ApiError({
    status: 503,
    message: 'The storage of this service is full, so nothing was stored. Its operator must make room first.',
    type: 'service_unavailable_error',
    code: 'storage_full',
    headers: { 'x-should-retry': 'false' },
  });
}

/** The model exists but nobody can answer for it at the moment; `retryAfterSeconds` null = asking again soon is no use. */
export function modelUnavailable(model: string, why: string, retryAfterSeconds: number | null): ApiError {
  return new ApiError({
    status: 503,
    message: `The model '${model}' cannot be served at the moment: ${why}`,
    type: 'service_unavailable_error',
    param: 'model',
    code: 'model_unavailable',
    headers:
      retryAfterSeconds === null
        ? { 'x-should-retry': 'false' }
        : { 'retry-after': String(retryAfterSeconds) },
  });
}

/**
 * What was learned belongs to other files of its base model than the ones at hand: it would answer wrongly. SDKs are told
 * not to repeat it, because only the operator can bring the files back.
 */
export function baseModelChanged(model: string, baseModel: string): ApiError {
  return new ApiError({
    status: 503,
    message:
      `The model '${model}' cannot be served: the files of its base model '${baseModel}' are not the ones it was ` +
      'trained on. The operator must bring those back, or the model has to be trained again.',
    type: 'service_unavailable_error',
    param: 'model',
    code: BASE_MODEL_CHANGED,
    headers: { 'x-should-retry': 'false' },
  });
}
/** The code of baseModelChanged, and of jobs that fail for the same reason. */
export const BASE_MODEL_CHANGED = 'base_model_changed';

/** Workers stopped while they worked on the request, one after the other: another try would stop a third one. */
export function requestStopsWorkers(): ApiError {
  return new ApiError({
    status: 500,
    message:
      'Two workers in a row stopped while they worked on this request. It may be what stopped them, so it is not tried ' +
      'again.',
    type: 'server_error',
    code: 'request_stops_workers',
    headers: { 'x-should-retry': 'false' },
  });
}

/** What any unexpected failure becomes; the reason stays in the log under the request id. */
export function serverError(requestId: string): ApiError {
  return new ApiError({
    status: 500,
    message: `The server had an error while processing your request. (Request id: ${requestId})`,
    type: 'server_error',
    code: 'server_error',
  });
}
