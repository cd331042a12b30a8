/**
 * The legacy text completion: its request, parameter by parameter, how it becomes generations (one per prompt), and its
 * answer's shape.
 */
import { z } from '@hono/zod-openapi';
import type { ChatRequest } from '../../domain/chat/complete.ts';
import { integer, strictObject } from '../../domain/jobs/parameters.ts';
import { logitBiasSchema, penaltySchema, seedSchema, stopSchema } from './sampling.ts';

/** Choices of one prompt, and of one request over all its prompts. */
const CHOICES_MAX = 32;
const CHOICES_IN_ALL_MAX = 128;
const PROMPTS_MAX = 128;
const TOKENS_MAX = 1_000_000;
/** OpenAI's default. */
const MAX_TOKENS = 16;

const tokenIds = z
  .array(integer(0, 2 ** 31 - 1))
  .min(1)
  .max(TOKENS_MAX);
const promptSchema = z.union([
  z.string(),
  tokenIds,
  z.array(z.string()).min(1).max(PROMPTS_MAX),
  z.array(tokenIds).min(1).max(PROMPTS_MAX),
]);

const suffix = z
  .unknown()
  .refine((value) => value === null || value === undefined || value === '', {
    message: 'filling in before a suffix is not supported by this server.',
    params: { code: 'unsupported_parameter' },
  })
  .optional();

export const createTextCompletionSchema = strictObject({
  model: z.string().min(1).max(512),
  prompt: promptSchema.openapi({ type: ['string', 'array'], items: {} }),
  best_of: integer(0, 20).nullish(),
  echo: z.boolean().nullish(),
  frequency_penalty: penaltySchema,
  presence_penalty: penaltySchema,
  logit_bias: logitBiasSchema,
  logprobs: integer(0, 5).nullish(),
  max_tokens: integer(0, Number.MAX_SAFE_INTEGER).nullish(),
  n: integer(1, CHOICES_MAX).nullish(),
  seed: seedSchema,
  stop: stopSchema,
  stream: z.boolean().nullish(),
  stream_options: strictObject({
    include_usage: z.boolean().nullish(),
    include_obfuscation: z.boolean().nullish(),
  }).nullish(),
  suffix,
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().min(0).max(1).nullish(),
  user: z.string().max(512).nullish(),
})
  .superRefine((body, context) => {
    const issue = (path: string, message: string) =>
      context.addIssue({ code: 'custom', path: [path], message, params: { code: 'invalid_value' } });
    const n = body.n ?? 1;
    const bestOf = body.best_of || n;
    if (bestOf < n) issue('best_of', `it must not be less than 'n' (${n}).`);
    if (body.stream && bestOf > n) issue('best_of', "a stream cannot be chosen from: it must equal 'n'.");
    if (body.stream_options && !body.stream)
      issue('stream_options', "it is only allowed when 'stream' is true.");
    if (promptsOf(body.prompt).length * bestOf > CHOICES_IN_ALL_MAX)
      issue('prompt', `prompts times choices must not be more than ${CHOICES_IN_ALL_MAX}.`);
    if (body.max_tokens === 0 && !body.echo) issue('max_tokens', "0 is only allowed when 'echo' is true.");
  })
  .openapi('CreateCompletionRequest');

export type TextCompletionBody = z.infer<typeof createTextCompletionSchema>;
export type Prompt = string | number[];

/** The prompts one by one. */
export function promptsOf(prompt: TextCompletionBody['prompt']): Prompt[] {
  if (typeof prompt === 'string') return [prompt];
  return typeof prompt[0] === 'number' ? [prompt as number[]] : (prompt as Prompt[]);
}

/** The generation of one prompt. Prompt tokens are asked back where they are to be shown. */
export function toGeneration(body: TextCompletionBody, prompt: Prompt): ChatRequest {
  const n = body.n ?? 1;
  const bestOf = body.best_of || n;
  const alternatives = body.logprobs ?? null;
  const showsPrompt = Boolean(body.echo) && (alternatives !== null || typeof prompt !== 'string');
  return {
    model: body.model,
    messages: [],
    prompt,
    whole: !body.stream,
    ...(showsPrompt ? { prompt_logprobs: alternatives ?? 0 } : {}),
    sampling: {
      max_tokens: body.max_tokens ?? MAX_TOKENS,
      temperature: body.temperature ?? 1,
      top_p: body.top_p ?? 1,
      n: bestOf,
      stop: typeof body.stop === 'string' ? [body.stop] : (body.stop ?? []),
      seed: body.seed ?? null,
      logprobs: alternatives !== null || bestOf > n,
      top_logprobs: alternatives ?? 0,
      presence_penalty: body.presence_penalty ?? 0,
      frequency_penalty: body.frequency_penalty ?? 0,
      logit_bias: body.logit_bias ?? {},
    },
  };
}

const textLogprobs = z.object({
  tokens: z.array(z.string()),
  token_logprobs: z.array(z.number().nullable()),
  top_logprobs: z.array(z.record(z.string(), z.number()).nullable()).nullable(),
  text_offset: z.array(z.int()),
});

const usage = z.object({ prompt_tokens: z.int(), completion_tokens: z.int(), total_tokens: z.int() }).loose();

export const textCompletionSchema = z
  .object({
    id: z.string().openapi({ example: 'cmpl-abc123' }),
    object: z.literal('text_completion'),
    created: z.int(),
    model: z.string(),
    system_fingerprint: z.string(),
    choices: z.array(
      z.object({
        text: z.string(),
        index: z.int(),
        logprobs: textLogprobs.nullable(),
        finish_reason: z.enum(['stop', 'length']).nullable(),
      }),
    ),
    usage: usage.nullable().optional(),
  })
  .openapi('Completion');

export type TextCompletion = z.infer<typeof textCompletionSchema>;
export type TextChoice = TextCompletion['choices'][number];
export type TextLogprobs = z.infer<typeof textLogprobs>;
