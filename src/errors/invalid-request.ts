/** 400: the request itself is wrong. */
import { ApiError } from './api-error.ts';

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
