/** 401 and 403: who asks is not known, or may not. */
import { ApiError } from './api-error.ts';

/** No Authorization header, or none with a bearer key in it. */
export function missingApiKey(): ApiError {
  return new ApiError({
    status: 401,
    message:
      "You didn't provide an API key. Send one of this server's in the Authorization header, as a bearer token: " +
      "'Authorization: Bearer sk-lathe-…'.",
    headers: { 'www-authenticate': 'Bearer' },
  });
}

/** Shorter keys are not shown at all: seven characters of one would be too much of it. */
const SHOWN_KEY_MIN = 16;

/**
 * One answer for a malformed, unknown, revoked or expired key, so that nothing can be learned from it. Of the key the
 * caller sent it shows the first three and the last four characters, which tell a person which one is meant.
 */
export function invalidApiKey(key = ''): ApiError {
  const shown = key.length < SHOWN_KEY_MIN ? '' : `: ${key.slice(0, 3)}…${key.slice(-4)}`;
  return new ApiError({
    status: 401,
    message: `Incorrect API key provided${shown}. Send a key of this server as 'Authorization: Bearer sk-lathe-…'.`,
    code: 'invalid_api_key',
    headers: { 'www-authenticate': 'Bearer' },
  });
}

export function permissionDenied(message: string): ApiError {
  return new ApiError({ status: 403, message, code: 'permission_denied' });
}

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
