/** 405 to 416: the request is well formed and cannot be served like this. */
import { ApiError } from './api-error.ts';

export function methodNotAllowed(method: string, path: string): ApiError {
  return new ApiError({
    status: 405,
    message: `Not allowed: ${method} on ${path}.`,
    code: 'method_not_allowed',
  });
}

/** Two requests that cannot both hold; SDKs are told not to repeat it. */
export function conflict(message: string, code: string): ApiError {
  return new ApiError({ status: 409, message, code, headers: { 'x-should-retry': 'false' } });
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

/** Answered before the body is read, so the connection cannot be reused. */
export function payloadTooLarge(limitBytes: number, param: string | null = null): ApiError {
  return new ApiError({
    status: 413,
    message: `The request is larger than the limit of ${limitBytes} bytes.`,
    param,
    code: 'payload_too_large',
    headers: { connection: 'close' },
  });
}

/** A `Range` that lies behind the last of `bytes` bytes. */
export function rangeNotSatisfiable(bytes: number): ApiError {
  return new ApiError({
    status: 416,
    message: `The requested range lies outside of the ${bytes} bytes.`,
    param: 'range',
    code: 'range_not_satisfiable',
    headers: { 'content-range': `bytes */${bytes}` },
  });
}

export function unsupportedMediaType(message: string, code = 'invalid_content_type'): ApiError {
  return new ApiError({ status: 415, message, code });
}
