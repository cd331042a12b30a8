/** The answer of a chat completion, as documentation and as a type. */
import { z } from '@hono/zod-openapi';

const topLogprob = z.object({ token: z.string(), logprob: z.number(), bytes: z.array(z.int()).nullable() });
const tokenLogprob = topLogprob.extend({ top_logprobs: z.array(topLogprob) });

const logprobs = z.object({ content: z.array(tokenLogprob).nullable(), refusal: z.null() }).nullable();
const finishReason = z.enum(['stop', 'length']);

const choice = z.object({
  index: z.int(),
  message: z.object({
    role: z.literal('assistant'),
    content: z.string().nullable(),
    refusal: z.string().nullable(),
    annotations: z.array(z.unknown()).openapi({ type: 'array', items: {} }),
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

export type ChatCompletion = z.infer<typeof completionSchema>;
export type ChatCompletionChunk = z.infer<typeof chunkSchema>;
export type Choice = z.infer<typeof choice>;
