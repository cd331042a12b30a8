/** The FineTuningJob object: the create request, and how a row becomes an answer. */
import { z } from '@hono/zod-openapi';
import type { Integration } from '../../domain/jobs/create.ts';
import {
  adapterSchema,
  hyperparametersSchema,
  methodSchema,
  type StoredMethod,
  storedHyperparameters,
  trainerSchema,
} from '../../domain/jobs/methods.ts';
import { integer, strictObject } from '../../domain/jobs/parameters.ts';
import type { JobRow } from '../../domain/jobs/repository.ts';
import { isTerminal, JOB_STATUSES, type JobStatus } from '../../domain/jobs/states.ts';
import { metadataSchema } from './metadata.ts';
import { toUnix, toUnixOrNull, unixSeconds } from './time.ts';

const fileId = z.string().min(1).max(200);

const integrationSchema = strictObject({
  type: z.literal('wandb'),
  wandb: strictObject({
    project: z.string().min(1).max(256),
    name: z.string().max(256).nullish(),
    entity: z.string().max(256).nullish(),
    tags: z.array(z.string().max(64)).max(50).nullish(),
  }),
}).openapi('FineTuningIntegration', {
  description: 'Kept and shown. No tracker is built in; a job with integrations says so in a warn event.',
});

const SUFFIX_MAX = 64;
/** Any text: the model's name gets what of it a name can hold. Counted in characters, not in UTF-16 units. */
const suffix = z
  .string()
  .min(1)
  .superRefine((text, context) => {
    const got = text.length > 2 * SUFFIX_MAX ? text.length : [...text].length;
    if (got <= SUFFIX_MAX) return;
    const message = `string too long. Expected a string with maximum length ${SUFFIX_MAX}, but got a string with length ${got} instead.`;
    context.addIssue({ code: 'custom', message, params: { code: 'string_above_max_length' } });
  })
  .regex(/^\P{Cc}*$/u, 'expected no control characters')
  .openapi({ maxLength: SUFFIX_MAX });

export const createJobSchema = strictObject({
  model: z.string().min(1).max(512).openapi({
    description: 'Id of a base model, or of a tuned model (or checkpoint) of the project to continue from.',
  }),
  training_file: fileId.openapi({ example: 'file-abc123' }),
  validation_file: fileId.nullish(),
  suffix: suffix.nullish(),
  seed: integer(0, 2_147_483_647).nullish(),
  metadata: metadataSchema.nullish(),
  integrations: z.array(integrationSchema).max(5).nullish(),
  hyperparameters: hyperparametersSchema.nullish().openapi({ deprecated: true }),
  method: methodSchema.nullish(),
  adapter: adapterSchema.nullish(),
  trainer: trainerSchema.nullish(),
}).openapi('CreateFineTuningJobRequest');

const numberOrAuto = z.union([z.literal('auto'), z.number()]);
const hyperparameters = z.object({
  n_epochs: numberOrAuto,
  batch_size: numberOrAuto,
  learning_rate_multiplier: numberOrAuto,
});

export const jobSchema = z
  .object({
    object: z.literal('fine_tuning.job'),
    id: z.string().openapi({ example: 'ftjob-abc123' }),
    model: z.string(),
    created_at: unixSeconds,
    finished_at: unixSeconds.nullable(),
    fine_tuned_model: z.string().nullable(),
    organization_id: z.string(),
    result_files: z.array(z.string()),
    status: z.enum(JOB_STATUSES),
    validation_file: z.string().nullable(),
    training_file: z.string(),
    hyperparameters,
    method: z.object({
      type: z.enum(['supervised', 'dpo']),
      supervised: z.object({ hyperparameters }).optional(),
      dpo: z.object({ hyperparameters: hyperparameters.extend({ beta: numberOrAuto }) }).optional(),
    }),
    adapter: z
      .record(z.string(), z.unknown())
      .openapi({ description: "PEFT's names; every value in force once it is known." }),
    trainer: z
      .record(z.string(), z.unknown())
      .openapi({ description: "TrainingArguments' names; likewise." }),
    trained_tokens: z.int().nullable().openapi({ description: 'null until the job has ended.' }),
    error: z.object({ code: z.string(), message: z.string(), param: z.string().nullable() }).nullable(),
    user_provided_suffix: z.string().nullable(),
    seed: z.int(),
    estimated_finish: unixSeconds.nullable(),
    integrations: z.array(integrationSchema).nullable(),
    metadata: z.record(z.string(), z.string()).nullable(),
  })
  .openapi('FineTuningJob');

export function presentJob(row: JobRow, organizationId: string): z.infer<typeof jobSchema> {
  const method = row.method as StoredMethod;
  // OpenAI documents the top-level numbers for supervised jobs only, but types them as always there: they always are.
  const { n_epochs, batch_size, learning_rate_multiplier } = storedHyperparameters(method);
  return {
    object: 'fine_tuning.job',
    id: row.id,
    model: row.startModel ?? row.model,
    created_at: toUnix(row.createdAt),
    finished_at: toUnixOrNull(row.finishedAt),
    fine_tuned_model: row.fineTunedModel,
    organization_id: organizationId,
    result_files: row.resultFiles,
    status: row.status as JobStatus,
    validation_file: row.validationFile,
    training_file: row.trainingFile,
    hyperparameters: { n_epochs, batch_size, learning_rate_multiplier },
    method,
    adapter: row.adapter as Record<string, unknown>,
    trainer: row.trainer as Record<string, unknown>,
    trained_tokens: isTerminal(row.status as JobStatus) ? row.trainedTokens : null,
    error: row.error ?? null,
    user_provided_suffix: row.suffix,
    seed: row.seed,
    estimated_finish: row.status === 'running' ? toUnixOrNull(row.estimatedFinish) : null,
    integrations: (row.integrations ?? []) as Integration[],
    metadata: row.metadata ?? null,
  };
}
