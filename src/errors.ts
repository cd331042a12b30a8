/**
 * The catalogue of public errors: one class, and one function per kind of mistake, with OpenAI's status, type, code and
 * wording. A broken invariant is not in here: it throws a plain Error and is answered as 500.
 */

export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null };
}

interface ApiErrorFields {
  status: number;
  message: string;
  type?: string;
  param?: string | null;
  code?: string | null;
  headers?: Record<string, string>;
}

/** A mistake the caller can see and act on; `headers` go out with the answer (retry-after, www-authenticate). */
export class ApiError extends Error {
  readonly status: number;
  readonly type: string;
  readonly param: string | null;
  readonly code: string | null;
  readonly headers: Record<string, string>;

  constructor(fields: ApiErrorFields) {
    super(fields.message);
    this.name = 'ApiError';
    this.status = fields.status;
    this.type = fields.type ?? 'invalid_request_error';
    this.param = fields.param ?? null;
    this.code = fields.code ?? null;
    this.headers = fields.headers ?? {};
  }

  /** OpenAI's envelope. */
  toBody(): ErrorBody {
    return { error: { message: this.message, type: this.type, param: this.param, code: this.code } };
  }
}

// 400: the request itself

/** Any other 400; prefer a named function below. */
export function badRequest(
  message: string,
  param: string | null = null,
  code: string | null = null,
): ApiError {
  return new ApiError({ status: 400, message, param, code });
}

export function invalidJson(detail?: string): ApiError {
  const hint = detail ? ` (HINT: ${detail})` : '';
  return badRequest(`We could not parse the JSON body of your request.${hint}`);
}

export function missingParameter(param: string): ApiError {
  return badRequest(`Missing required parameter: '${param}'.`, param, 'missing_required_parameter');
}

export function unknownParameter(param: string): ApiError {
  return badRequest(`Unknown parameter: '${param}'.`, param, 'unknown_parameter');
}

export function duplicateParameter(param: string): ApiError {
  return badRequest(`Parameter given more than once: '${param}'.`, param, 'duplicate_parameter');
}

export function invalidType(param: string, expected: string, got: string): ApiError {
  const message = `Invalid type for '${param}': expected ${expected}, but got ${got} instead.`;
  return badRequest(message, param, 'invalid_type');
}

/** `why` completes the sentence: "Invalid 'param': why." */
export function invalidValue(param: string, why: string, code = 'invalid_value'): ApiError {
  return badRequest(`Invalid '${param}': ${why}`, param, code);
}

/** A well-formed value that this server does not offer. */
export function unsupportedValue(param: string, why: string): ApiError {
  return badRequest(`Unsupported value: '${param}' ${why}`, param, 'unsupported_value');
}

export function unsupportedParameter(param: string, why: string): ApiError {
  return badRequest(`Unsupported parameter: '${param}' ${why}`, param, 'unsupported_parameter');
}

/** A number outside its range, in OpenAI's words and codes. */
export function outOfRange(
  param: string,
  got: number,
  bound: { min: number } | { max: number },
  kind: 'integer' | 'decimal',
): ApiError {
  const above = 'max' in bound;
  const side = above ? 'above maximum' : 'below minimum';
  const limit = above ? `<= ${bound.max}` : `>= ${bound.min}`;
  return invalidValue(
    param,
    `${kind} ${side} value. Expected a value ${limit}, but got ${got} instead.`,
    `${kind}_${above ? 'above_max' : 'below_min'}_value`,
  );
}

export function stringTooLong(param: string, max: number, got: number): ApiError {
  const why = `string too long. Expected a string with maximum length ${max}, but got a string with length ${got} instead.`;
  return invalidValue(param, why, 'string_above_max_length');
}

export function arrayTooLong(param: string, max: number, got: number): ApiError {
  const why = `array too long. Expected an array with maximum length ${max}, but got an array with length ${got} instead.`;
  return invalidValue(param, why, 'array_above_max_length');
}

export function emptyArray(param: string): ApiError {
  const why = 'empty array. Expected an array with minimum length 1, but got an empty array instead.';
  return invalidValue(param, why, 'empty_array');
}

export function contextLengthExceeded(context: number, prompt: number, completion: number): ApiError {
  const message =
    `This model's maximum context length is ${context} tokens. However, your messages resulted in ${prompt} tokens` +
    `${completion > 0 ? ` and ${completion} more were requested for the completion` : ''}. Please reduce the length.`;
  return badRequest(message, 'messages', 'context_length_exceeded');
}

/** Cancel (pause, resume) of a job that has ended; 400 and not 409, which SDKs would repeat. */
export function jobAlreadyTerminal(jobId: string, status: string): ApiError {
  return badRequest(`Job ${jobId} has already ended with status '${status}'.`, null, 'job_already_terminal');
}

export function modelNotTunable(model: string): ApiError {
  return badRequest(
    `Model ${model} is not available for fine-tuning or does not exist.`,
    'model',
    'model_not_available',
  );
}

// 401, 403

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

// 404: unknown and foreign ids are answered alike

export function noSuchFile(id: string): ApiError {
  return new ApiError({ status: 404, message: `No such File object: ${id}`, param: 'id' });
}

export function noSuchUpload(id: string): ApiError {
  return new ApiError({ status: 404, message: `No such Upload object: ${id}`, param: 'upload_id' });
}

export function noSuchExport(id: string): ApiError {
  return new ApiError({ status: 404, message: `No such export: ${id}`, param: 'export_id' });
}

export function noSuchJob(id: string): ApiError {
  const message = `Could not find fine tune: ${id}`;
  return new ApiError({ status: 404, message, param: 'fine_tune_id', code: 'fine_tune_not_found' });
}

export function noSuchBatch(id: string): ApiError {
  return new ApiError({ status: 404, message: `No batch found with id '${id}'.` });
}

export function modelNotFound(id: string): ApiError {
  const message = `The model '${id}' does not exist`;
  return new ApiError({ status: 404, message, param: 'model', code: 'model_not_found' });
}

export function noSuchWebhook(id: string): ApiError {
  const message = `No such webhook endpoint: ${id}`;
  return new ApiError({
    status: 404,
    message,
    param: 'webhook_endpoint_id',
    code: 'webhook_endpoint_not_found',
  });
}

export function noSuchPermission(id: string): ApiError {
  return new ApiError({
    status: 404,
    message: `No such checkpoint permission: ${id}`,
    param: 'permission_id',
    code: 'permission_not_found',
  });
}

export function unknownUrl(method: string, path: string): ApiError {
  const message = `Unknown request URL: ${method} ${path}. Please check the URL for typos, or see /docs.`;
  return new ApiError({ status: 404, message, code: 'unknown_url' });
}

// 405, 409, 413, 415

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

// 429, 5xx: the SDKs repeat these after `retry-after`

export function rateLimited(message: string, retryAfterSeconds: number): ApiError {
  return new ApiError({
    status: 429,
    message,
    type: 'rate_limit_error',
    code: 'rate_limit_exceeded',
    headers: { 'retry-after': String(retryAfterSeconds) },
  });
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

/** The model exists but nobody can answer for it at the moment. */
export function modelUnavailable(model: string, why: string, retryAfterSeconds: number): ApiError {
  return new ApiError({
    status: 503,
    message: `The model '${model}' cannot be served at the moment: ${why}`,
    type: 'service_unavailable_error',
    param: 'model',
    code: 'model_unavailable',
    headers: { 'retry-after': String(retryAfterSeconds) },
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
