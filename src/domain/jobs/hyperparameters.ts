/**
 * The one place where "auto" and every default become numbers. Pure: the same request, data and model give the same
 * answer, and a job stores all of it so that nothing in force is hidden.
 */
import type { RequestedAdapter, RequestedDpoHyperparameters, RequestedTrainer } from './methods.ts';

export interface EffectiveHyperparameters {
  n_epochs: number;
  /** Examples per optimizer step. */
  batch_size: number;
  learning_rate_multiplier: number;
  /** DPO only. */
  beta?: number;
}

export type EffectiveAdapter =
  | {
      peft_type: 'LORA';
      r: number;
      lora_alpha: number;
      lora_dropout: number;
      target_modules: 'all-linear' | string[];
      use_rslora: boolean;
    }
  | { peft_type: 'FULL' };

export interface EffectiveTrainer {
  learning_rate: number;
  lr_scheduler_type: 'linear' | 'cosine' | 'constant';
  warmup_ratio: number;
  /** More than 0 replaces `warmup_ratio`. */
  warmup_steps: number;
  /** -1: as many as `n_epochs` make. */
  max_steps: number;
  /** Tokens an example may have. */
  max_length: number;
  overlong: 'truncate' | 'drop' | 'error';
  max_tokens_per_pack: number;
  weight_decay: number;
  adam_beta1: number;
  adam_beta2: number;
  adam_epsilon: number;
  /** 0: no clipping. */
  max_grad_norm: number;
  /** null: at the end of each epoch only. */
  eval_steps: number | null;
  /** null: at the end of each epoch only. */
  save_steps: number | null;
  logging_steps: number;
  bf16: boolean;
}

export interface ResolveInput {
  /** Default 'supervised'. */
  method?: 'supervised' | 'dpo';
  requested: RequestedDpoHyperparameters;
  adapter: RequestedAdapter;
  trainer: RequestedTrainer;
  /** Usable examples of the training file. */
  rows: number;
  /** All weights of the base model. */
  parameterCount: number;
  /** Tokens the base model can see. */
  contextLength: number;
  /** Whether the base model's weights are stored as bfloat16. */
  baseIsBf16: boolean;
}

export interface ResolvedHyperparameters {
  hyperparameters: EffectiveHyperparameters;
  adapter: EffectiveAdapter;
  trainer: EffectiveTrainer;
}

const given = <T>(value: T | 'auto' | null | undefined): value is T =>
  value !== undefined && value !== null && value !== 'auto';

/** Few rows are seen often, many rows once: about 1,600 examples in all below 700 rows, at most 10 passes. */
function autoEpochs(rows: number): number {
  if (rows >= 20_000) return 1;
  if (rows >= 5_000) return 2;
  if (rows >= 700) return 3;
  return Math.min(10, Math.ceil(1_600 / rows));
}

/** The power of two nearest to rows/64 (by ratio), within 1…32. */
function autoBatchSize(rows: number): number {
  return Math.min(32, Math.max(1, 2 ** Math.round(Math.log2(rows / 64))));
}

/** DPO sees the same pairs a few times at most: its loss goes on falling long after the answers got worse. */
const DPO_EPOCHS_MAX = 3;
/** A full fine-tune of 7 B then has 1e-6, TRL's default. */
const DPO_RATE_SHARE = 1 / 20;
/** TRL's default, and the paper's for most tasks. */
const DPO_BETA = 0.1;

/** Larger models take smaller steps; a full fine-tune takes a tenth of what an adapter takes, DPO a twentieth. */
function baseLearningRate(parameterCount: number, full: boolean, dpo: boolean): number {
  const millions = parameterCount / 1e6;
  const lora =
    millions < 50
      ? 2e-3
      : millions < 1_000
        ? 4e-4
        : millions < 4_000
          ? 3e-4
          : millions < 10_000
            ? 2e-4
            : 1e-4;
  return (full ? lora / 10 : lora) * (dpo ? DPO_RATE_SHARE : 1);
}

function resolveAdapter(adapter: RequestedAdapter): EffectiveAdapter {
  if (adapter.peft_type === 'FULL') return { peft_type: 'FULL' };
  const r = adapter.r ?? 8;
  return {
    peft_type: 'LORA',
    r,
    lora_alpha: adapter.lora_alpha ?? 2 * r,
    lora_dropout: adapter.lora_dropout ?? 0,
    target_modules: adapter.target_modules ?? 'all-linear',
    use_rslora: adapter.use_rslora ?? false,
  };
}

/**
 * Every number in force, by this rule:
 *
 * - n_epochs: rows ≥ 20,000 → 1; ≥ 5,000 → 2; ≥ 700 → 3; else min(10, ⌈1600 / rows⌉).
 * - batch_size: the power of two nearest to rows / 64, within 1…32.
 * - learning_rate = learning_rate_multiplier (auto = 1) × base rate. Base rate of an adapter by the model's weights:
 *   < 50 M 2e-3, < 1 B 4e-4, < 4 B 3e-4, < 10 B 2e-4, else 1e-4; of a full fine-tune a tenth of it.
 *   `trainer.learning_rate` replaces the product.
 * - dpo: at most 3 epochs, a twentieth of the base rate, beta 0.1, and a pack has room for two answers of max_length.
 * - adapter: LoRA, r 8, lora_alpha 2·r, dropout 0, all linears.
 * - trainer: linear decay with warmup_ratio 0.03, max_length 2,048 but never above the context, one pack = max_length
 *   tokens, AdamW (0.9, 0.999, 1e-8), no weight decay, gradient norm clipped at 1, bf16 where the base is bf16.
 *
 * Throws RangeError when there are no rows: that is a data error the caller reports before asking.
 */
export function resolveHyperparameters(input: ResolveInput): ResolvedHyperparameters {
  const { requested, trainer, rows } = input;
  if (!(rows >= 1)) throw new RangeError(`Hyperparameters of a job with ${rows} rows are not defined.`);
  const adapter = resolveAdapter(input.adapter);
  const isDpo = input.method === 'dpo';
  const multiplier = given(requested.learning_rate_multiplier) ? requested.learning_rate_multiplier : 1;
  const maxLength = Math.min(trainer.max_length ?? 2_048, input.contextLength);
  const examplePositions = isDpo ? 2 * maxLength : maxLength;
  const epochs = Math.min(autoEpochs(rows), isDpo ? DPO_EPOCHS_MAX : Number.POSITIVE_INFINITY);
  return {
    hyperparameters: {
      n_epochs: given(requested.n_epochs) ? requested.n_epochs : epochs,
      batch_size: given(requested.batch_size) ? requested.batch_size : autoBatchSize(rows),
      learning_rate_multiplier: multiplier,
      ...(isDpo && { beta: given(requested.beta) ? requested.beta : DPO_BETA }),
    },
    adapter,
    trainer: {
      learning_rate:
        trainer.learning_rate ??
        multiplier * baseLearningRate(input.parameterCount, adapter.peft_type === 'FULL', isDpo),
      lr_scheduler_type: trainer.lr_scheduler_type ?? 'linear',
      warmup_ratio: trainer.warmup_ratio ?? 0.03,
      warmup_steps: trainer.warmup_steps ?? 0,
      max_steps: trainer.max_steps ?? -1,
      max_length: maxLength,
      overlong: trainer.overlong ?? 'truncate',
      max_tokens_per_pack: Math.max(maxLength, trainer.max_tokens_per_pack ?? examplePositions),
      weight_decay: trainer.weight_decay ?? 0,
      adam_beta1: trainer.adam_beta1 ?? 0.9,
      adam_beta2: trainer.adam_beta2 ?? 0.999,
      adam_epsilon: trainer.adam_epsilon ?? 1e-8,
      max_grad_norm: trainer.max_grad_norm ?? 1,
      eval_steps: trainer.eval_steps ?? null,
      save_steps: trainer.save_steps ?? null,
      logging_steps: trainer.logging_steps ?? 1,
      bf16: trainer.bf16 ?? input.baseIsBf16,
    },
  };
}
