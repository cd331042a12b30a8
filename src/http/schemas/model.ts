/** The Model object. */
import { z } from '@hono/zod-openapi';
import type { ListedModel } from '../../domain/models/registry.ts';
import { toUnix, unixSeconds } from './time.ts';

export const modelSchema = z
  .object({
    id: z.string().openapi({ example: 'ft:lathe-tiny:acme::9ABel2dg' }),
    object: z.literal('model'),
    created: unixSeconds,
    owned_by: z.string(),
    shutdown_date: z.null().openapi({ description: 'Nothing here is shut down on a date.' }),
    kind: z.enum(['base', 'adapter', 'full']).openapi({
      description: 'What it is: a base model, an adapter on one, or a model of its own weights.',
    }),
    family: z.string().openapi({ example: 'qwen3' }),
    context_length: z.int().openapi({ description: 'Tokens of prompt and answer together.' }),
    parameter_count: z.int().openapi({ description: 'Of the base model.' }),
    quantization: z.string().optional().openapi({
      description:
        'How a worker that answers for it now holds the weights of the base model: `int8`. Absent where all hold them as they are.',
      example: 'int8',
    }),
    base_model: z.string().optional().openapi({ description: 'Tuned models only, as are the next three.' }),
    fine_tuning_job_id: z.string().optional(),
    step_number: z.int().optional(),
    is_checkpoint: z.boolean().optional(),
  })
  .openapi('Model');

export const modelDeletedSchema = z
  .object({ id: z.string(), object: z.literal('model'), deleted: z.literal(true) })
  .openapi('ModelDeleted');

export function presentModel(model: ListedModel): z.infer<typeof modelSchema> {
  const { tuned } = model;
  return {
    id: model.id,
    object: 'model',
    created: toUnix(model.created),
    owned_by: model.ownedBy,
    shutdown_date: null,
    kind: model.kind,
    family: model.family,
    context_length: model.contextLength,
    parameter_count: model.parameterCount,
    ...(model.quantization === null ? {} : { quantization: model.quantization }),
    ...(tuned && {
      base_model: tuned.baseModel,
      ...(tuned.jobId === null ? {} : { fine_tuning_job_id: tuned.jobId }),
      step_number: tuned.step,
      is_checkpoint: tuned.isCheckpoint,
    }),
  };
}
