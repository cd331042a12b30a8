/**
 * The one writer of error answers: whatever was thrown becomes OpenAI's envelope. Never a stack, never a 500 for what
 * the caller sent; the cause of a 500 stays in the log under the request id.
 */
import type { ErrorHandler } from 'hono';
import { HTTPException } from 'hono/http-exception';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { StorageUnavailable } from '../domain/dependencies.ts';
import {
  ApiError,
  invalidJson,
  overloaded,
  serverError,
  storageFull,
  unsupportedMediaType,
} from '../errors.ts';
import { type AppContext, type AppEnv, logOf } from './context.ts';

/** Nginx's number for a caller that hung up; nobody reads it but the log. */
const CLIENT_GONE = 499;
const DATABASE_GONE = /^(08\w{3}|57P0[1-5]|53\w{3}|ECONNREFUSED|ECONNRESET|ENOTFOUND|EPIPE|ETIMEDOUT)$/;

export const errorHandler: ErrorHandler<AppEnv> = (error, c) => {
  if (!(error instanceof ApiError) && c.req.raw.signal.aborted)
    return new Response(null, { status: CLIENT_GONE });
  return errorResponse(c, toPublicError(error, c));
};

/** The answer for `error`, with the headers it carries. */
export function errorResponse(c: AppContext, error: ApiError): Response {
  for (const [name, value] of Object.entries(error.headers)) c.header(name, value);
  return c.json(error.toBody(), error.status as ContentfulStatusCode);
}

/** What the caller may see of `error`; the rest goes to the log. */
export function toPublicError(error: unknown, c: AppContext): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof HTTPException) {
    if (error.status === 415)
      return unsupportedMediaType("Unsupported Content-Type. Send 'application/json'.");
    if (error.status === 400) return invalidJson();
  }
  const requestId = c.get('requestId');
  const storage = causesOf(error).find((each) => each instanceof StorageUnavailable);
  if (storage) {
    logOf(c).error({ err: error }, 'storage not available');
    if (storage.full) return storageFull();
    return overloaded('The object storage cannot be reached at the moment. Please try again.', 1);
  }
  if (isDatabaseGone(error)) {
    logOf(c).error({ err: error }, 'database not reachable');
    return overloaded('The database cannot be reached at the moment. Please try again.', 1);
  }
  logOf(c).error({ err: error }, 'request failed');
  return serverError(requestId);
}

/** True for errors that say the database (not the statement) is at fault, however deep they are wrapped. */
function isDatabaseGone(error: unknown): boolean {
  for (const at of causesOf(error)) {
    const code = (at as { code?: unknown }).code;
    if (typeof code === 'string' && DATABASE_GONE.test(code)) return true;
    if (/timeout exceeded when trying to connect|Connection terminated|Query read timeout/.test(at.message))
      return true;
  }
  return false;
}

/** The error and what it was caused by. */
function causesOf(error: unknown): Error[] {
  const causes: Error[] = [];
  for (let at = error; at instanceof Error && causes.length < 5; at = at.cause) causes.push(at);
  return causes;
}
