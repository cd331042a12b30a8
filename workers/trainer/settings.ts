/**
 * From what a job row asks for to what is in force: the bridge between the stored request, the data's size and the
 * child's numbers. Pure.
 */
import {
  type EffectiveAdapter,
  type ResolvedHyperparameters,
  resolveHyperparameters,
} from '../../src/domain/jobs/hyperparameters.ts';
import {
  type RequestedAdapter,
  type RequestedTrainer,
  type StoredMethod,
  storedHyperparameters,
  storedMethod,
} from '../../src/domain/jobs/methods.ts';
import type { ClaimedJob } from '../../src/queue/queue.ts';
import { stepsPerEpoch } from '../engine/data/batches.ts';
import { MAX_STEP_EVENTS, planOf, type TrainingPlan } from './plan.ts';

function resolve(job: ClaimedJob, rows: number): ResolvedHyperparameters {
  const config = job.base.config as Record<string, unknown>;
  const method = job.job.method as StoredMethod;
  return resolveHyperparameters({
    method: method.type,
    requested: storedHyperparameters(method),
    adapter: job.job.adapter as RequestedAdapter,
    trainer: job.job.trainer as RequestedTrainer,
    rows,
    parameterCount: job.base.parameterCount,
    contextLength: job.base.contextLength,
    baseIsBf16: (config.dtype ?? config.torch_dtype) === 'bfloat16',
  });
}

/** How rows become examples; none of this depends on how many there are. */
export function dataOptions(job: ClaimedJob): {
  method: StoredMethod['type'];
  maxLength: number;
  overlong: 'truncate' | 'drop' | 'error';
} {
  const { max_length: maxLength, overlong } = resolve(job, 1).trainer;
  return { method: (job.job.method as StoredMethod).type, maxLength, overlong };
}

export interface EffectiveSettings {
  /** Written back to the job row. */
  columns: { method: StoredMethod; adapter: EffectiveAdapter; trainer: ResolvedHyperparameters['trainer'] };
  plan: TrainingPlan;
}

/** Every number in force, for a training file with this many usable examples. */
export function effectiveSettings(job: ClaimedJob, examples: number): EffectiveSettings {
  const resolved = resolve(job, examples);
  const plan = planOf(resolved, job.job.seed, stepsPerEpoch(examples, resolved.hyperparameters.batch_size));
  if ((job.job.trainer as RequestedTrainer).logging_steps === undefined) {
    plan.loggingSteps = Math.ceil(plan.totalSteps / MAX_STEP_EVENTS);
  }
  return {
    columns: {
      method: storedMethod(resolved.hyperparameters, (job.job.method as StoredMethod).type),
      adapter: resolved.adapter,
      trainer: { ...resolved.trainer, logging_steps: plan.loggingSteps },
    },
    plan,
  };
}

/**
 * `ft:<base>:<organisation>:<suffix>:<tail>`; a checkpoint adds `:ckpt-step-<step>`. A suffix may be any text: each run
 * of characters that are not safe in a name or a URL becomes one '-', none at its ends.
 */
export function modelName(job: ClaimedJob, tail: string, checkpointStep?: number): string {
  const suffix = (job.job.suffix ?? '').replace(/[^A-Za-z0-9._-]+/g, '-').replace(/^-+|-+$/g, '');
  const name = `ft:${job.job.model}:${job.organizationSlug}:${suffix}:${tail}`;
  return checkpointStep === undefined ? name : `${name}:ckpt-step-${checkpointStep}`;
}
