/**
 * Graders on the wire: each kind with its fields, what is refused by name (python, cosine, images and audio), and the
 * outcome of a run.
 */
import { z } from '@hono/zod-openapi';
import type { Grader, TextContent } from '../../domain/graders/grader.ts';
import type { GraderRun } from '../../domain/graders/run.ts';
import { TEXT_METRICS } from '../../domain/graders/text-similarity.ts';
import { integer, strictObject } from '../../domain/jobs/parameters.ts';

const name = z.string().min(1).max(256);
const template = z.string().max(256 * 1024);
const model = z.string().min(1).max(512);

const refusedPart = <T extends string>(type: T) =>
  z.looseObject({ type: z.literal(type) }).refine(() => false, {
    message: `parts of type '${type}' are not supported: the model reads text.`,
    params: { code: 'unsupported_content' },
  });

const textPart = z.discriminatedUnion('type', [
  strictObject({ type: z.literal('input_text'), text: template }),
  strictObject({ type: z.literal('output_text'), text: template }),
  refusedPart('input_image'),
  refusedPart('input_audio'),
]);
const content = z.union([
  template,
  textPart,
  z
    .array(z.union([template, textPart]))
    .min(1)
    .max(64),
]);

const message = strictObject({
  role: z.enum(['user', 'assistant', 'system', 'developer']),
  content: content.transform((value) => value as TextContent),
  type: z.literal('message').optional(),
});
const messages = z.array(message).min(1).max(64);

const samplingParams = strictObject({
  seed: integer(-Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER).nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().min(0).max(1).nullish(),
  max_completions_tokens: integer(1, 1_000_000).nullish(),
  reasoning_effort: z.enum(['none', 'minimal', 'low', 'medium', 'high', 'xhigh', 'max']).nullish(),
});

const stringCheck = strictObject({
  type: z.literal('string_check'),
  name,
  input: template,
  reference: template,
  operation: z
    .enum(['eq', 'ne', 'neq', 'like', 'ilike'])
    .transform((operation) => (operation === 'neq' ? 'ne' : operation))
    .openapi({ description: "'neq' means 'ne'." }),
});

const COSINE = "'cosine' needs embeddings, which this server does not have.";
const textSimilarity = strictObject({
  type: z.literal('text_similarity'),
  name,
  input: template,
  reference: template,
  evaluation_metric: z
    .string()
    .refine((metric) => metric !== 'cosine', { message: COSINE, params: { code: 'unsupported_value' } })
    .pipe(z.enum(TEXT_METRICS))
    .openapi({ enum: [...TEXT_METRICS] }),
  pass_threshold: z.number().optional(),
});

const range = z
  .tuple([z.number(), z.number()])
  .refine(([min, max]) => min < max, { message: 'expected a minimum below the maximum.' })
  .default([0, 1])
  .openapi({ type: 'array', items: { type: 'number' }, minItems: 2, maxItems: 2 });

const scoreModel = strictObject({
  type: z.literal('score_model'),
  name,
  model,
  input: messages,
  range,
  sampling_params: samplingParams.optional(),
  pass_threshold: z.number().optional(),
});

const labels = z.array(z.string().min(1).max(256)).min(1).max(128);
const labelModel = strictObject({
  type: z.literal('label_model'),
  name,
  model,
  input: messages,
  labels,
  passing_labels: labels,
  sampling_params: samplingParams.optional(),
}).refine(({ labels: all, passing_labels: passing }) => passing.every((label) => all.includes(label)), {
  path: ['passing_labels'],
  message: "every passing label must be one of 'labels'.",
});

const python = z.looseObject({ type: z.literal('python') }).refine(() => false, {
  path: ['type'],
  message: "graders of type 'python' are not supported by this server: it runs no code of its users.",
  params: { code: 'unsupported_value' },
});

const single = z.discriminatedUnion('type', [stringCheck, textSimilarity, scoreModel, labelModel, python]);

const GRADERS_MAX = 32;
const byName = z
  .record(z.string(), single)
  .refine((graders) => Object.keys(graders).length > 0, { message: 'expected at least one grader.' })
  .refine((graders) => Object.keys(graders).length <= GRADERS_MAX, {
    message: `expected at most ${GRADERS_MAX} graders.`,
  });

/** A dictionary by name, or (as the SDKs' types have it) one grader under its own name. */
const graders = z
  .preprocess((value) => (isSingle(value) ? { [value.name]: value } : value), byName)
  .openapi({
    type: 'object',
    additionalProperties: { type: 'object' },
    description: 'Graders by the name that calculate_output uses.',
  });

const isSingle = (value: unknown): value is { name: string } =>
  value !== null &&
  typeof value === 'object' &&
  typeof (value as { type?: unknown }).type === 'string' &&
  typeof (value as { name?: unknown }).name === 'string';

const multi = strictObject({
  type: z.literal('multi'),
  name,
  graders,
  calculate_output: z.string().min(1).max(2_048),
});

const graderSchema = z
  .discriminatedUnion('type', [stringCheck, textSimilarity, scoreModel, labelModel, multi, python])
  .openapi('Grader');

export const runGraderSchema = strictObject({
  grader: graderSchema,
  model_sample: z.string().max(4 * 1024 * 1024),
  item: z
    .record(z.string(), z.unknown())
    .nullish()
    .openapi({ type: ['object', 'null'], additionalProperties: true }),
}).openapi('RunGraderRequest');

export const validateGraderSchema = strictObject({ grader: graderSchema }).openapi('ValidateGraderRequest');
export const validatedSchema = z
  .object({ grader: z.record(z.string(), z.unknown()) })
  .openapi('ValidateGraderResponse');

const usage = z.object({ prompt_tokens: z.int(), completion_tokens: z.int(), total_tokens: z.int() });

export const graderRunSchema = z
  .object({
    reward: z.number(),
    metadata: z.object({
      name: z.string(),
      type: z.string(),
      errors: z.object({
        formula_parse_error: z.boolean(),
        sample_parse_error: z.boolean(),
        truncated_observation_error: z.boolean(),
        unresponsive_reward_error: z.boolean(),
        invalid_variable_error: z.boolean(),
        other_error: z.boolean(),
        python_grader_server_error: z.boolean(),
        python_grader_server_error_type: z.string().nullable(),
        python_grader_runtime_error: z.boolean(),
        python_grader_runtime_error_details: z.string().nullable(),
        model_grader_server_error: z.boolean(),
        model_grader_refusal_error: z.boolean(),
        model_grader_parse_error: z.boolean(),
        model_grader_server_error_details: z.string().nullable(),
      }),
      execution_time: z.number().openapi({ description: 'Seconds.' }),
      scores: z.record(z.string(), z.number()),
      token_usage: z.int().nullable(),
      sampled_model_name: z.string().nullable(),
    }),
    sub_rewards: z.record(z.string(), z.number()),
    model_grader_token_usage_per_model: z.record(z.string(), usage),
  })
  .openapi('RunGraderResponse');

/** The body's grader in the domain's terms. */
export const toGrader = (body: z.infer<typeof graderSchema>): Grader => body as Grader;

export function presentRun(run: GraderRun): z.infer<typeof graderRunSchema> {
  const tokens = Object.values(run.usageByModel);
  return {
    reward: run.reward,
    metadata: {
      name: run.name,
      type: run.type,
      errors: run.errors,
      execution_time: run.executionTime,
      scores: run.subRewards,
      token_usage: tokens.length === 0 ? null : tokens.reduce((sum, each) => sum + each.total_tokens, 0),
      sampled_model_name: run.sampledModel,
    },
    sub_rewards: run.subRewards,
    model_grader_token_usage_per_model: run.usageByModel,
  };
}
