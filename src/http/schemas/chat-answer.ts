/** The answer of a chat completion, as documentation and as a type. */
import { z } from '@hono/zod-openapi';

const topLogprob = z.object({ token: z.string(), logprob: z.number(), bytes: z.array(z.int()).nullable() });
const tokenLogprob = topLogprob.extend({ top_logprobs: z.array(topLogprob) });

const choice = z.object({
  index: z.int(),
  message: z.object({
    role: z.literal('assistant'),
    content: z.string().nullable(),
    refusal: z.string().nullable(),
    annotations: z.array(z.unknown()).openapi({ type: 'array', items: {} }),
  }),
  logprobs: z.object({ content: z.array(tokenLogprob).nullable(), refusal: z.null() }).nullable(),
  finish_reason: z.enum(['stop', 'length']),
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

export type ChatCompletion = z.infer<typeof completionSchema>;
export type Choice = z.infer<typeof choice>;
