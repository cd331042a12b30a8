/**
 * What a job would take, before there is one: tokens, steps, memory and time, and whether it fits where. The same checks
 * and the same rules as the job's; nothing is written and no device is used.
 */
import type { FileInspection, InspectedMemory } from '../../inference/inspection.ts';
import type { Dependencies } from '../dependencies.ts';
import type { JobRequest } from '../jobs/create.ts';
import type { ResolvedHyperparameters } from '../jobs/hyperparameters.ts';
import { filesOf, inspect, type Plan, planOf } from './inspect.ts';
import { recentThroughput, type TrainerDevice, trainerDevices } from './repository.ts';

/** Trainers keep activations while they need at most this share of the memory, and compute them again above it. */
const KEPT_SHARE = 0.6;
/** A forward costs about a third of a training step: what DPO's reference costs, once. */
const FORWARD_SHARE = 1 / 3;

export interface EstimatedFile extends FileInspection {
  /** Scaled up to the whole file where only its first part was read; equal to the counts otherwise. */
  estimated: { examples: number; tokens: number; labelled_tokens: number };
}

export interface EstimatedDevice {
  device: string;
  trainers: number;
  memory_bytes: number | null;
  required_bytes: number;
  /** Whether activations are computed again in the backward to save memory. */
  recompute: boolean;
  fits: boolean | null;
}

export interface Estimate {
  model: string;
  method: Plan['method']['type'];
  /** A job with this request would not fail on its data, as far as it was read. */
  valid: boolean;
  files: EstimatedFile[];
  /** Everything below is null when the data cannot be learned from. */
  settings: ResolvedHyperparameters | null;
  steps: { per_epoch: number; total: number; epochs: number } | null;
  trained_tokens: number | null;
  memory: {
    trainable_parameters: number;
    total_parameters: number;
    devices: EstimatedDevice[];
    fits: boolean | null;
    reason: string | null;
  } | null;
  time: { seconds: number | null; tokens_per_second: number | null; reason: string | null } | null;
}

/** Throws ApiError as creating the job would, and 503 when no worker can look into the files. */
export async function estimateJob(
  deps: Pick<Dependencies, 'database' | 'config' | 'storage' | 'log'>,
  projectId: string,
  request: JobRequest,
  signal: AbortSignal,
): Promise<Estimate> {
  const plan = await planOf(deps, projectId, request);
  const { adapter, trainer } = plan.resolve(1);
  const answer = await inspect(
    deps,
    plan,
    {
      files: filesOf(plan),
      rows: null,
      training: {
        adapter:
          adapter.peft_type === 'FULL' ? null : { r: adapter.r, target_modules: adapter.target_modules },
        dtype: trainer.bf16 ? 'bf16' : 'f32',
        pack_tokens: trainer.max_tokens_per_pack,
      },
    },
    signal,
  );
  const sizes = [plan.trainingFile.bytes, plan.validationFile?.bytes ?? 0];
  const files = answer.files.map((file, i) => ({ ...file, estimated: scaled(file, sizes[i]!) }));
  const training = files[0]!;
  const common = { model: request.model, method: plan.method.type, files };
  const valid = files.every((file) => file.errors_total === 0);
  if (training.estimated.examples < 1) {
    const nothing = { settings: null, steps: null, trained_tokens: null, memory: null, time: null };
    return { ...common, valid: false, ...nothing };
  }
  const settings = plan.resolve(training.estimated.examples);
  const steps = stepsOf(settings, training.estimated.examples);
  const trainedTokens = Math.round((training.estimated.tokens * steps.total) / steps.per_epoch);
  return {
    ...common,
    ...{ valid, settings, steps, trained_tokens: trainedTokens },
    memory: answer.memory && memoryOn(answer.memory, await trainerDevices(deps.database.db)),
    time: await timeOf(deps, projectId, plan, settings, trainedTokens, files),
  };
}

/** The counts of the part that was read, as if the rest were like it. */
function scaled(file: FileInspection, bytes: number): EstimatedFile['estimated'] {
  const factor = file.complete || file.bytes_read === 0 ? 1 : Math.max(1, bytes / file.bytes_read);
  const times = (count: number) => Math.round(count * factor);
  return {
    examples: times(file.examples),
    tokens: times(file.tokens),
    labelled_tokens: times(file.labelled_tokens),
  };
}

function stepsOf({ hyperparameters, trainer }: ResolvedHyperparameters, examples: number) {
  const perEpoch = Math.ceil(examples / hyperparameters.batch_size);
  const total = trainer.max_steps > 0 ? trainer.max_steps : hyperparameters.n_epochs * perEpoch;
  return { per_epoch: perEpoch, total, epochs: total / perEpoch };
}

function memoryOn(memory: InspectedMemory, devices: readonly TrainerDevice[]): Estimate['memory'] {
  const estimated = devices.map(({ device, memoryBytes, count }): EstimatedDevice => {
    const needs = device === 'cuda' ? memory.cuda : memory.cpu;
    const recompute = memoryBytes !== null && needs.bytes > KEPT_SHARE * memoryBytes;
    const required = recompute ? needs.recomputed_bytes : needs.bytes;
    return {
      ...{ device, trainers: count, memory_bytes: memoryBytes, required_bytes: required, recompute },
      fits: memoryBytes === null ? null : required <= memoryBytes,
    };
  });
  const known = estimated.filter(({ fits }) => fits !== null);
  const fits = known.some((device) => device.fits) ? true : known.length < estimated.length ? null : false;
  const reason =
    devices.length === 0
      ? 'No trainer is running, so there is nothing to compare with.'
      : fits === null
        ? 'The memory of a running trainer is not known.'
        : null;
  const { trainable_parameters, total_parameters } = memory;
  return {
    ...{ trainable_parameters, total_parameters, devices: estimated },
    ...{ fits: devices.length === 0 ? null : fits, reason },
  };
}

async function timeOf(
  { database }: Pick<Dependencies, 'database'>,
  projectId: string,
  plan: Plan,
  settings: ResolvedHyperparameters,
  trainedTokens: number,
  files: readonly EstimatedFile[],
): Promise<Estimate['time']> {
  const kind = {
    model: plan.base.id,
    method: plan.method.type,
    peftType: settings.adapter.peft_type,
  };
  const measured = await recentThroughput(database.db, projectId, kind);
  if (!measured) {
    const reason =
      'No finished job of this project on this base model, method and kind of adapter to measure from.';
    return { seconds: null, tokens_per_second: null, reason };
  }
  const all = files.reduce((sum, file) => sum + file.estimated.tokens, 0);
  const reference = plan.method.type === 'dpo' ? FORWARD_SHARE * all : 0;
  const seconds = (trainedTokens + reference) / measured.tokensPerSecond;
  return { seconds, tokens_per_second: measured.tokensPerSecond, reason: null };
}
