/**
 * The request of a chat completion, parameter by parameter: honoured, accepted and ignored, or refused by name; and how
 * it becomes what a worker understands.
 */
import { z } from '@hono/zod-openapi';
import type { ChatRequest } from '../../domain/chat/complete.ts';
import { integer, strictObject } from '../../domain/jobs/parameters.ts';
import type { WireMessage } from '../../inference/protocol.ts';
import { messageSchema, type RequestMessage } from './chat-message.ts';
import {
  functionCallSchema,
  functionsSchema,
  responseFormatSchema,
  toolChoiceSchema,
  toolsSchema,
  wireFormat,
  wireTools,
} from './chat-tools.ts';
import { metadataSchema } from './metadata.ts';
import { logitBiasSchema, penaltySchema, seedSchema, stopSchema } from './sampling.ts';

/** Choices of one request; OpenAI's limit is 128. */
const CHOICES_MAX = 32;
const MESSAGES_MAX = 2048;

/** A parameter of OpenAI's that this server does not offer: only null (or `allowed`) passes. */
const refused = (why: string, allowed: (value: unknown) => boolean = () => false) =>
  z
    .unknown()
    .refine((value) => value === null || value === undefined || allowed(value), {
      message: why,
      params: { code: 'unsupported_parameter' },
    })
    .optional();

const honoured = {
  model: z.string().min(1).max(512),
  messages: z.array(messageSchema).min(1).max(MESSAGES_MAX),
  max_completion_tokens: integer(1, Number.MAX_SAFE_INTEGER).nullish(),
  max_tokens: integer(1, Number.MAX_SAFE_INTEGER).nullish().openapi({ deprecated: true }),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().min(0).max(1).nullish(),
  frequency_penalty: penaltySchema,
  presence_penalty: penaltySchema,
  logit_bias: logitBiasSchema,
  logprobs: z.boolean().nullish(),
  top_logprobs: integer(0, 20).nullish(),
  n: integer(1, CHOICES_MAX).nullish(),
  stop: stopSchema,
  seed: seedSchema,
  tools: toolsSchema.nullish(),
  tool_choice: toolChoiceSchema.nullish(),
  parallel_tool_calls: z.boolean().nullish(),
  functions: functionsSchema.nullish().openapi({ deprecated: true }),
  function_call: functionCallSchema.nullish().openapi({ deprecated: true }),
  response_format: responseFormatSchema.nullish(),
  metadata: metadataSchema.nullish(),
  store: z.boolean().nullish(),
  reasoning_effort: z.enum(['none', 'minimal', 'low', 'medium', 'high', 'xhigh', 'max']).nullish(),
  stream: z.boolean().nullish(),
  stream_options: strictObject({
    include_usage: z.boolean().nullish(),
    include_obfuscation: z.boolean().nullish(),
  }).nullish(),
};

const ignored = {
  user: z.string().max(512).nullish(),
  safety_identifier: z.string().max(128).nullish(),
  service_tier: z.string().max(64).nullish(),
  prompt_cache_key: z.string().max(512).nullish(),
  prompt_cache_options: strictObject({
    mode: z.string().max(64).nullish(),
    ttl: z.string().max(64).nullish(),
  }).nullish(),
  prompt_cache_retention: z.string().max(64).nullish(),
  prediction: z.looseObject({}).nullish(),
  verbosity: z.enum(['low', 'medium', 'high']).nullish(),
};

const refusals = {
  modalities: refused(
    "only ['text'] is supported by this server.",
    (value) => JSON.stringify(value) === '["text"]',
  ),
  audio: refused('audio is not supported by this server.'),
  web_search_options: refused('web search is not supported by this server.'),
  moderation: refused('moderation is not supported by this server.'),
};

export const createCompletionSchema = strictObject({ ...honoured, ...ignored, ...refusals })
  .superRefine((body, context) => {
    const issue = (path: string, message: string, code = 'invalid_value') =>
      context.addIssue({ code: 'custom', path: [path], message, params: { code } });
    const { max_tokens: old, max_completion_tokens: current } = body;
    if (old && current && old !== current) {
      issue(
        'max_tokens',
        "it contradicts 'max_completion_tokens'. Send one of them.",
        'conflicting_parameters',
      );
    }
    if (body.stream_options && !body.stream)
      issue('stream_options', "it is only allowed when 'stream' is true.");
    if (body.top_logprobs && !body.logprobs)
      issue('top_logprobs', "it is only allowed when 'logprobs' is true.");
  })
  .openapi('CreateChatCompletionRequest');

export type CompletionBody = z.infer<typeof createCompletionSchema>;

/** What the worker gets; absent numbers take OpenAI's defaults. */
export function toChatRequest(body: CompletionBody): ChatRequest {
  const tools = wireTools(body);
  const format = wireFormat(body.response_format);
  const effort = body.reasoning_effort;
  return {
    model: body.model,
    messages: body.messages.map(toWireMessage),
    whole: !body.stream,
    ...(tools ? { tools: tools.tools, tool_choice: tools.choice } : {}),
    ...(format ? { response_format: format } : {}),
    ...(effort ? { enable_thinking: effort !== 'none' && effort !== 'minimal' } : {}),
    sampling: {
      max_tokens: body.max_completion_tokens ?? body.max_tokens ?? null,
      temperature: body.temperature ?? 1,
      top_p: body.top_p ?? 1,
      n: body.n ?? 1,
      stop: typeof body.stop === 'string' ? [body.stop] : (body.stop ?? []),
      seed: body.seed ?? null,
      logprobs: body.logprobs ?? false,
      top_logprobs: body.top_logprobs ?? 0,
      presence_penalty: body.presence_penalty ?? 0,
      frequency_penalty: body.frequency_penalty ?? 0,
      logit_bias: body.logit_bias ?? {},
    },
  };
}

/** Text parts become one string; `developer` is what templates call `system`, `function` what they call `tool`. */
function toWireMessage(message: RequestMessage): WireMessage {
  const { role, content } = message;
  const roles: Record<string, string> = { developer: 'system', function: 'tool' };
  return {
    role: roles[role] ?? role,
    content: Array.isArray(content)
      ? content.map((part) => ('text' in part ? part.text : 'refusal' in part ? part.refusal : '')).join('')
      : (content ?? null),
    ...('name' in message && message.name ? { name: message.name } : {}),
    ...('tool_calls' in message && message.tool_calls ? { tool_calls: message.tool_calls } : {}),
    ...('function_call' in message && message.function_call
      ? { tool_calls: [{ id: 'call_0', type: 'function', function: message.function_call }] }
      : {}),
    ...('tool_call_id' in message ? { tool_call_id: message.tool_call_id } : {}),
  };
}
