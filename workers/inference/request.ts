/**
 * The body of POST /generate, checked: every number finite and in range, every text well-formed, nothing unknown.
 * Knows the wire and the public errors; must not know sockets, threads or tensors.
 */
import { z } from 'zod';
import { type ApiError, badRequest } from '../../src/errors.ts';
import type { GenerateRequest, WorkerError } from '../../src/inference/protocol.ts';

const text = z.string().refine((value) => value.isWellFormed(), 'expected a string without lone surrogates');
const name = z.string().min(1).max(512);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/, 'expected 64 hexadecimal digits');

const message = z.strictObject({
  role: name,
  content: text.nullable(),
  name: text.optional(),
  tool_calls: z
    .array(z.object({ function: z.object({ name: text, arguments: text }) }).loose())
    .max(1024)
    .optional(),
  tool_call_id: text.optional(),
});

const adapter = z.strictObject({
  model_id: name,
  digest: sha256,
  storage_prefix: z.string().min(1).max(1024),
  files: z
    .array(
      z.strictObject({
        name: z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,254}$/, 'expected a plain file name'),
        bytes: z.int().min(0),
        sha256,
      }),
    )
    .max(1024),
});

const sampling = z.strictObject({
  max_tokens: z.int().min(0).nullable(),
  temperature: z.number().min(0).max(2),
  top_p: z.number().min(0).max(1),
  n: z.int().min(1).max(128),
  stop: z.array(text.min(1).max(1024)).max(4),
  seed: z.number().refine(Number.isInteger, 'expected a whole number').nullable(),
  logprobs: z.boolean(),
  top_logprobs: z.int().min(0).max(20),
  presence_penalty: z.number().min(-2).max(2),
  frequency_penalty: z.number().min(-2).max(2),
  logit_bias: z
    .record(z.string().regex(/^(0|[1-9]\d{0,8})$/, 'expected a token id'), z.number().min(-100).max(100))
    .refine((bias) => Object.keys(bias).length <= 1024, 'expected at most 1024 entries'),
});

const toolChoice = z.strictObject({
  mode: z.enum(['none', 'auto', 'required']),
  names: z.array(name).max(128).nullable(),
  parallel: z.boolean(),
});

const responseFormat = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('json_object') }),
  z.strictObject({ type: z.literal('json_schema'), schema: z.unknown(), strict: z.boolean() }),
]);

const request = z.strictObject({
  request_id: name,
  base_model: name,
  base_digest: sha256.optional(),
  adapter: adapter.nullable(),
  cache_owner: name,
  messages: z.array(message).max(4096),
  tools: z.array(z.unknown()).max(128).nullable(),
  sampling,
  tool_choice: toolChoice.optional(),
  response_format: responseFormat.optional(),
  prompt: z.union([text, z.array(z.int().min(0)).min(1)]).optional(),
  prompt_logprobs: z.int().min(0).max(20).optional(),
  enable_thinking: z.boolean().optional(),
});

/** Parses a body. @throws ApiError 400 that names the first wrong field. */
export function parseGenerateRequest(body: string): GenerateRequest {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    throw badRequest('The body is not valid JSON.');
  }
  const parsed = request.safeParse(value);
  if (parsed.success) return checked(parsed.data as GenerateRequest);
  const issue = parsed.error.issues[0]!;
  const param = issue.path.map(String).join('.') || null;
  throw badRequest(`Invalid '${param ?? 'body'}': ${issue.message}`, param, 'invalid_value');
}

/** What must hold between fields. */
function checked(request: GenerateRequest): GenerateRequest {
  const { messages, prompt, prompt_logprobs, sampling } = request;
  if (prompt === undefined && messages.length === 0) throw missing('messages');
  if (prompt === undefined && prompt_logprobs !== undefined) throw missing('prompt');
  if (prompt === undefined && sampling.max_tokens === 0) throw missing('sampling.max_tokens');
  return request;
}

const missing = (param: string): ApiError =>
  badRequest(`Invalid '${param}': expected at least one.`, param, 'invalid_value');

/** @throws ApiError 400 when a token of a prompt does not exist. */
export function checkPromptTokens(tokens: readonly number[], vocabSize: number): void {
  const unknown = tokens.find((token) => token >= vocabSize);
  if (unknown === undefined) return;
  const why = `token ids of this model go from 0 to ${vocabSize - 1}, but got ${unknown}.`;
  throw badRequest(`Invalid 'prompt': ${why}`, 'prompt', 'invalid_value');
}

/** @throws ApiError 400 when a biased token does not exist: it must never reach the device. */
export function checkLogitBias(bias: Record<string, number>, vocabSize: number): void {
  for (const id of Object.keys(bias)) {
    if (Number(id) < vocabSize) continue;
    const param = `logit_bias.${id}`;
    throw badRequest(
      `Invalid '${param}': token ids of this model go from 0 to ${vocabSize - 1}.`,
      param,
      'invalid_value',
    );
  }
}

/** Bytes of everything the template will render; more than 16 a token of context cannot be a prompt that fits. */
export function promptBytes({ messages, tools, prompt }: GenerateRequest): number {
  let bytes = tools === null ? 0 : Buffer.byteLength(JSON.stringify(tools));
  if (prompt !== undefined) bytes += typeof prompt === 'string' ? Buffer.byteLength(prompt) : prompt.length;
  for (const { role, content, name: author, tool_calls, tool_call_id } of messages) {
    for (const part of [role, content, author, tool_call_id]) bytes += part ? Buffer.byteLength(part) : 0;
    if (tool_calls) bytes += Buffer.byteLength(JSON.stringify(tool_calls));
  }
  return bytes;
}

/** A public error in the wire's terms. 401 and 405 concern a misconfigured API process, never a user. */
export function toWorkerError(error: ApiError): WorkerError {
  const retryAfter = error.headers['retry-after'];
  return {
    status: error.status as WorkerError['status'],
    type: error.type,
    code: error.code,
    param: error.param,
    message: error.message,
    ...(retryAfter === undefined ? {} : { retry_after_seconds: Number(retryAfter) }),
  };
}
