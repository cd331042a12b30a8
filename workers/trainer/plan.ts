/**
 * What one job does, in numbers: made once from the effective hyperparameters and the number of examples. Pure.
 */
import type { ResolvedHyperparameters } from '../../src/domain/jobs/hyperparameters.ts';

/** What the loop optimises, with the numbers that belong to it. */
export type PlannedMethod = { type: 'supervised' } | { type: 'dpo'; beta: number };

export interface TrainingPlan {
  method: PlannedMethod;
  seed: number;
  /** Examples per optimizer step. */
  batchSize: number;
  /** Tokens of one micro-batch. */
  maxTokensPerPack: number;
  stepsPerEpoch: number;
  totalSteps: number;
  learningRate: number;
  schedule: 'linear' | 'cosine' | 'constant';
  warmupSteps: number;
  weightDecay: number;
  betas: [number, number];
  epsilon: number;
  /** Infinity: no clipping. */
  maxGradNorm: number;
  /** A validation batch is measured every so many steps; null at the end of each epoch only. */
  evalSteps: number | null;
  /** A state for resuming is saved every so many steps; null at the end of each epoch only. */
  saveSteps: number | null;
  /** An event every so many steps. */
  loggingSteps: number;
  dtype: 'bf16' | 'f32';
}

/** Events a job writes at most when the user did not say how often: the list stays readable and cheap. */
export const MAX_STEP_EVENTS = 5_000;

/** @param stepsPerEpoch optimizer steps of one pass over the data */
export function planOf(resolved: ResolvedHyperparameters, seed: number, stepsPerEpoch: number): TrainingPlan {
  const { hyperparameters, trainer } = resolved;
  const totalSteps = trainer.max_steps > 0 ? trainer.max_steps : hyperparameters.n_epochs * stepsPerEpoch;
  return {
    method:
      hyperparameters.beta === undefined
        ? { type: 'supervised' }
        : { type: 'dpo', beta: hyperparameters.beta },
    seed,
    batchSize: hyperparameters.batch_size,
    maxTokensPerPack: trainer.max_tokens_per_pack,
    stepsPerEpoch,
    totalSteps,
    learningRate: trainer.learning_rate,
    schedule: trainer.lr_scheduler_type,
    warmupSteps:
      trainer.warmup_steps > 0 ? trainer.warmup_steps : Math.ceil(trainer.warmup_ratio * totalSteps),
    weightDecay: trainer.weight_decay,
    betas: [trainer.adam_beta1, trainer.adam_beta2],
    epsilon: trainer.adam_epsilon,
    maxGradNorm: trainer.max_grad_norm > 0 ? trainer.max_grad_norm : Number.POSITIVE_INFINITY,
    evalSteps: trainer.eval_steps,
    saveSteps: trainer.save_steps,
    loggingSteps: trainer.logging_steps,
    dtype: trainer.bf16 ? 'bf16' : 'f32',
  };
}

/** An epoch is over after this step (1-based); the last step always ends one, also in the middle of the data. */
export function endsEpoch(plan: TrainingPlan, step: number): boolean {
  return step % plan.stepsPerEpoch === 0 || step === plan.totalSteps;
}
