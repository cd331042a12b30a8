/** The answer of a chat completion, as documentation and as a type. */
import { z } from '@hono/zod-openapi';

const topLogprob = z.object({ token: z.string(), logprob: z.number(), bytes: z.array(z.int()).nullable() });
const tokenLogprob = topLogprob.extend({ top_logprobs: z.array(topLogprob) });

const logprobs = z.object({ content: z.array(tokenLogprob).nullable(), refusal: z.null() }).nullable();
const finishReason = z.enum(['stop', 'length', 'tool_calls', 'function_call']);
const calledFunction = z.object({ name: z.string(), arguments: z.string() });
const toolCall = z.object({ id: z.string(), type: z.literal('function'), function: calledFunction });

const choice = z.object({
  index: z.int(),
  message: z.object({
    role: z.literal('assistant'),
    content: z.string().nullable(),
    refusal: z.string().nullable(),
    annotations: z.array(z.unknown()).openapi({ type: 'array', items: {} }),
    tool_calls: z.array(toolCall).optional(),
    function_call: calledFunction.optional().openapi({ deprecated: true }),
  }),
  logprobs,
  finish_reason: finishReason,
});

const usage = z.object({
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  total_tokens: z.int(),
  prompt_tokens_details: z.object({ cached_tokens: z.int(), audio_tokens: z.int() }),
  completion_tokens_details: z.object({
    reasoning_tokens: z.int(),
    audio_tokens: z.int(),
    accepted_prediction_tokens: z.int(),
    rejected_prediction_tokens: z.int(),
  }),
});

export const completionSchema = z
  .object({
    id: z.string().openapi({ example: 'chatcmpl-abc123' }),
    object: z.literal('chat.completion'),
    created: z.int(),
    model: z.string(),
    choices: z.array(choice),
    usage,
    service_tier: z.literal('default'),
    system_fingerprint: z.string(),
  })
  .openapi('ChatCompletion');

export const chunkSchema = z
  .object({
    id: z.string().openapi({ example: 'chatcmpl-abc123' }),
    object: z.literal('chat.completion.chunk'),
    created: z.int(),
    model: z.string(),
    service_tier: z.literal('default'),
    system_fingerprint: z.string(),
    choices: z
      .array(
        z.object({
          index: z.int(),
          delta: z.object({
            role: z.literal('assistant').optional(),
            content: z.string().optional(),
            refusal: z.string().nullable().optional(),
            tool_calls: z
              .array(
                z.object({
                  index: z.int(),
                  id: z.string().optional(),
                  type: z.literal('function').optional(),
                  function: calledFunction.partial(),
                }),
              )
              .optional(),
            function_call: calledFunction.partial().optional().openapi({ deprecated: true }),
          }),
          logprobs,
          finish_reason: finishReason.nullable(),
        }),
      )
      .openapi({ description: 'Empty in the chunk that carries the usage.' }),
    usage: usage.nullable().optional().openapi({
      description: 'Only with `stream_options.include_usage`; null in every chunk but the last.',
    }),
  })
  .openapi('ChatCompletionChunk');

/** A completion that was stored, with what was asked. */
export const storedCompletionSchema = completionSchema
  .extend({
    metadata: z.record(z.string(), z.string()).nullable(),
    request_id: z.string(),
    input_user: z.string().nullable(),
    seed: z.number().nullable(),
    temperature: z.number(),
    top_p: z.number(),
    presence_penalty: z.number(),
    frequency_penalty: z.number(),
    tools: z.array(z.looseObject({})).nullable(),
    tool_choice: z.unknown().openapi({ description: 'As it was sent, or null.' }),
    response_format: z.looseObject({}).nullable(),
  })
  .openapi('StoredChatCompletion');

export const storedMessageSchema = z
  .looseObject({ id: z.string(), role: z.string(), content: z.string().nullable() })
  .openapi('StoredChatMessage');

export const completionDeletedSchema = z.object({
  id: z.string(),
  object: z.literal('chat.completion.deleted'),
  deleted: z.literal(true),
});

export type StoredChatCompletion = z.infer<typeof storedCompletionSchema>;
export type ChatCompletion = z.infer<typeof completionSchema>;
export type ChatCompletionChunk = z.infer<typeof chunkSchema>;
export type Choice = z.infer<typeof choice>;
