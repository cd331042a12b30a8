/** What is said of a job's files and costs without a job: estimate, validation, preview. */
import { z } from '@hono/zod-openapi';
import type { Estimate, EstimatedFile } from '../../domain/estimate/estimate.ts';
import { integer } from '../../domain/jobs/parameters.ts';
import type { FileInspection, InspectedRow } from '../../inference/inspection.ts';
import { createJobSchema } from './fine-tuning-job.ts';

/** Rows shown at most in one answer. */
const PREVIEW_ROWS_MAX = 20;

export const previewRequestSchema = createJobSchema
  .extend({
    line: integer(1, 2_147_483_647)
      .default(1)
      .openapi({ description: 'First line of the training file to show, from 1.' }),
    count: integer(1, PREVIEW_ROWS_MAX).default(1),
  })
  .openapi('FineTuningPreviewRequest');

const issueSchema = z.object({
  line: z.int().nullable(),
  code: z.string(),
  message: z.string(),
  param: z.string().nullable(),
});

const inspectedFileSchema = z
  .object({
    param: z.enum(['training_file', 'validation_file']),
    format: z.string().nullable().openapi({
      description:
        'chat, completion, alpaca, src_tgt, preference or prompt_chosen_rejected; null when no row has a known one.',
    }),
    complete: z.boolean().openapi({
      description: 'False when the time for reading was up: the counts are of the first `bytes_read` bytes.',
    }),
    bytes_read: z.int(),
    rows: z.int(),
    examples: z.int(),
    tokens: z.int().openapi({ description: 'Tokens that one epoch reads.' }),
    labelled_tokens: z.int().openapi({ description: 'Tokens that one epoch learns.' }),
    longest_example: z.int(),
    truncated: z.int(),
    dropped: z.int(),
    warnings: z.array(z.object({ code: z.string(), message: z.string() })),
    errors: z.array(issueSchema).openapi({ description: 'The first 100.' }),
    errors_total: z.int(),
  })
  .openapi('InspectedFile');

export const validationSchema = z
  .object({
    object: z.literal('fine_tuning.validation'),
    valid: z.boolean(),
    training_file: inspectedFileSchema,
    validation_file: inspectedFileSchema.nullable(),
  })
  .openapi('FineTuningValidation');

export const previewSchema = z
  .object({
    object: z.literal('fine_tuning.preview'),
    data: z.array(
      z.object({
        line: z.int(),
        format: z.string().nullable(),
        sequences: z.array(
          z.object({
            name: z.enum(['example', 'preferred_output', 'non_preferred_output']),
            truncated: z.boolean(),
            tokens_total: z.int(),
            tokens: z.array(z.object({ id: z.int(), text: z.string(), learned: z.boolean() })),
          }),
        ),
        errors: z.array(issueSchema),
      }),
    ),
  })
  .openapi('FineTuningPreview');

const estimatedFileSchema = inspectedFileSchema
  .extend({
    estimated: z
      .object({ examples: z.int(), tokens: z.int(), labelled_tokens: z.int() })
      .openapi({ description: 'The counts, scaled up to the whole file where only its start was read.' }),
  })
  .openapi('EstimatedFile');

const settings = z.record(z.string(), z.unknown()).nullable();

export const estimateSchema = z
  .object({
    object: z.literal('fine_tuning.estimate'),
    model: z.string(),
    valid: z.boolean(),
    training_file: estimatedFileSchema,
    validation_file: estimatedFileSchema.nullable(),
    method: z.object({ type: z.enum(['supervised', 'dpo']) }),
    hyperparameters: settings.openapi({ description: 'In force; null when nothing can be learned.' }),
    adapter: settings,
    trainer: settings,
    steps: z.object({ per_epoch: z.int(), total: z.int(), epochs: z.number() }).nullable(),
    trained_tokens: z.int().nullable(),
    memory: z
      .object({
        trainable_parameters: z.int(),
        total_parameters: z.int(),
        devices: z.array(
          z.object({
            device: z.string(),
            trainers: z.int(),
            memory_bytes: z.int().nullable(),
            required_bytes: z.int(),
            recompute: z.boolean(),
            fits: z.boolean().nullable(),
          }),
        ),
        fits: z.boolean().nullable(),
        reason: z.string().nullable(),
      })
      .nullable(),
    time: z
      .object({
        seconds: z.number().nullable().openapi({ description: 'Of training steps, without evaluation.' }),
        tokens_per_second: z.number().nullable(),
        reason: z.string().nullable(),
      })
      .nullable(),
  })
  .openapi('FineTuningEstimate');

export function presentEstimate(estimate: Estimate): z.infer<typeof estimateSchema> {
  const { files, settings: inForce, method, ...rest } = estimate;
  const fileOf = (param: string): EstimatedFile | undefined => files.find((file) => file.param === param);
  return {
    object: 'fine_tuning.estimate',
    ...rest,
    training_file: fileOf('training_file')!,
    validation_file: fileOf('validation_file') ?? null,
    method: { type: method },
    hyperparameters: inForce && { ...inForce.hyperparameters },
    adapter: inForce && { ...inForce.adapter },
    trainer: inForce && { ...inForce.trainer },
  };
}

export function presentValidation(files: readonly FileInspection[]): z.infer<typeof validationSchema> {
  return {
    object: 'fine_tuning.validation',
    valid: files.every((file) => file.errors_total === 0),
    training_file: files.find(({ param }) => param === 'training_file')!,
    validation_file: files.find(({ param }) => param === 'validation_file') ?? null,
  };
}

export function presentPreview(rows: InspectedRow[]): z.infer<typeof previewSchema> {
  return { object: 'fine_tuning.preview', data: rows };
}
