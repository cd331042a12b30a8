/**
 * What a job may ask for: OpenAI's hyperparameters, PEFT's adapter names and TrainingArguments' names, each with its
 * range. Strict: an unknown name is an error. Knows no defaults; those are hyperparameters.ts.
 */
import { z } from 'zod';
import { integer, strictObject } from './parameters.ts';

/** The linears of every supported decoder block, as `target_modules` may name them. */
export const LINEAR_MODULES = [
  'q_proj',
  'k_proj',
  'v_proj',
  'o_proj',
  'gate_proj',
  'up_proj',
  'down_proj',
] as const;

/** Rows a file must have before a job starts, as OpenAI's. */
export const MIN_EXAMPLES = 10;

const orAuto = <S extends z.ZodType>(schema: S) => z.union([z.literal('auto'), schema]);

const commonHyperparameters = {
  batch_size: orAuto(integer(1, 256)).optional(),
  learning_rate_multiplier: orAuto(z.number().gt(0).max(1000)).optional(),
  n_epochs: orAuto(integer(1, 50)).optional(),
};

/** OpenAI's three numbers; `auto` is resolved when the data is known. */
export const hyperparametersSchema = strictObject(commonHyperparameters);
export type RequestedHyperparameters = z.infer<typeof hyperparametersSchema>;

/** The same three for DPO, and the strength of the pull towards the reference. */
const dpoHyperparametersSchema = strictObject({
  ...commonHyperparameters,
  beta: orAuto(z.number().gt(0).max(2)).optional(),
});
export type RequestedDpoHyperparameters = z.infer<typeof dpoHyperparametersSchema>;

/** `method` of a job; settings of the types that are not chosen may be present and are ignored. */
export const methodSchema = strictObject({
  type: z.enum(['supervised', 'dpo', 'reinforcement']),
  supervised: strictObject({ hyperparameters: hyperparametersSchema.nullish() }).nullish(),
  dpo: strictObject({ hyperparameters: dpoHyperparametersSchema.nullish() }).nullish(),
  reinforcement: z.looseObject({}).nullish(),
});
export type RequestedMethod = z.infer<typeof methodSchema>;

const moduleName = z
  .string()
  .min(1)
  .max(128)
  .refine((name) => LINEAR_MODULES.some((module) => name === module || name.endsWith(`.${module}`)), {
    error: `expected a linear of the decoder block: ${LINEAR_MODULES.join(', ')}`,
  });

const loraSchema = strictObject({
  peft_type: z.literal('LORA').optional(),
  r: integer(1, 256).optional(),
  lora_alpha: z.number().gt(0).max(65536).optional(),
  lora_dropout: z.number().min(0).lt(1).optional(),
  target_modules: z.union([z.literal('all-linear'), z.array(moduleName).min(1).max(1024)]).optional(),
  use_rslora: z.boolean().optional(),
  // PEFT's own names at the only value supported, so that an adapter_config.json can be sent as it is.
  task_type: z.literal('CAUSAL_LM').nullish(),
  bias: z.literal('none').optional(),
  use_dora: z.literal(false).optional(),
  fan_in_fan_out: z.literal(false).optional(),
  init_lora_weights: z.literal(true).optional(),
  modules_to_save: z.null().optional(),
});

/** Every weight learns; nothing else to say. */
const fullSchema = strictObject({ peft_type: z.literal('FULL') });

/** `adapter` of a job: what is trained beside (LORA) or instead of (FULL) the frozen base. */
export const adapterSchema = z.discriminatedUnion('peft_type', [loraSchema, fullSchema]);
export type RequestedAdapter = z.infer<typeof adapterSchema>;

/** `trainer` of a job: TrainingArguments' names. `-1` and `0` switch off what they switch off there. */
export const trainerSchema = strictObject({
  learning_rate: z.number().gt(0).max(1).optional(),
  lr_scheduler_type: z.enum(['linear', 'cosine', 'constant']).optional(),
  warmup_ratio: z.number().min(0).max(1).optional(),
  warmup_steps: integer(0, 1_000_000).optional(),
  max_steps: integer(-1, 1_000_000).optional(),
  max_length: integer(8, 1_048_576).optional(),
  overlong: z.enum(['truncate', 'drop', 'error']).optional(),
  max_tokens_per_pack: integer(8, 1_048_576).optional(),
  weight_decay: z.number().min(0).max(10).optional(),
  adam_beta1: z.number().min(0).lt(1).optional(),
  adam_beta2: z.number().min(0).lt(1).optional(),
  adam_epsilon: z.number().gt(0).max(1).optional(),
  max_grad_norm: z.number().min(0).max(1_000_000).optional(),
  eval_steps: integer(1, 1_000_000).nullish(),
  save_steps: integer(1, 1_000_000).nullish(),
  logging_steps: integer(1, 1_000_000).optional(),
  bf16: z.boolean().optional(),
});
export type RequestedTrainer = z.infer<typeof trainerSchema>;

/** The job row's `method` column: `auto` until a worker has seen the data. */
export type StoredMethod =
  | { type: 'supervised'; supervised: { hyperparameters: Required<RequestedHyperparameters> } }
  | { type: 'dpo'; dpo: { hyperparameters: Required<RequestedDpoHyperparameters> } };

/** The numbers of whichever method it is. */
export function storedHyperparameters(
  method: StoredMethod,
): Required<RequestedHyperparameters> | Required<RequestedDpoHyperparameters> {
  return method.type === 'dpo' ? method.dpo.hyperparameters : method.supervised.hyperparameters;
}

/** The method a request means, from `method` or the deprecated top-level `hyperparameters`; absent numbers are auto. */
export function storedMethod(
  requested: RequestedDpoHyperparameters | null | undefined,
  type: StoredMethod['type'] = 'supervised',
): StoredMethod {
  const hyperparameters = {
    n_epochs: requested?.n_epochs ?? ('auto' as const),
    batch_size: requested?.batch_size ?? ('auto' as const),
    learning_rate_multiplier: requested?.learning_rate_multiplier ?? ('auto' as const),
  };
  return type === 'dpo'
    ? { type, dpo: { hyperparameters: { ...hyperparameters, beta: requested?.beta ?? 'auto' } } }
    : { type, supervised: { hyperparameters } };
}
