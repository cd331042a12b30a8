/**
 * Creates a job: everything that can be known before the data is read is checked here, so that the answer already says
 * what is wrong. The data itself is checked by a trainer.
 */
import { randomInt } from 'node:crypto';
import type { Queryable } from '../../db/client.ts';
import { badRequest, invalidValue, modelNotTunable, unsupportedValue } from '../../errors.ts';
import { newId } from '../../ids.ts';
import type { Dependencies } from '../dependencies.ts';
import { type FileRow, lockFile } from '../files/repository.ts';
import {
  type BaseModelRow,
  canBeTrained,
  findBaseModel,
  findTunedModel,
  type TunedModelRow,
} from '../models/repository.ts';
import { requireJobSlot } from '../quotas/quotas.ts';
import {
  type RequestedAdapter,
  type RequestedDpoHyperparameters,
  type RequestedHyperparameters,
  type RequestedMethod,
  type RequestedTrainer,
  type StoredMethod,
  storedMethod,
} from './methods.ts';
import { findJob, insertJob, type JobRow } from './repository.ts';
import { type AdapterShape, readShape, type StartingPoint, startFrom } from './start-model.ts';

/** A tracker that shall follow the job; kept and shown. No tracker is built in, which an event says. */
export interface Integration {
  type: 'wandb';
  wandb: { project: string; name?: string | null; entity?: string | null; tags?: string[] | null };
}

export interface JobRequest {
  model: string;
  training_file: string;
  validation_file?: string | null;
  suffix?: string | null;
  seed?: number | null;
  metadata?: Record<string, string> | null;
  integrations?: Integration[] | null;
  hyperparameters?: RequestedHyperparameters | null;
  method?: RequestedMethod | null;
  adapter?: RequestedAdapter | null;
  trainer?: RequestedTrainer | null;
}

/**
 * The new job's row. A job that already has this `id` was made by an earlier try of the same request, and is the answer.
 * Throws ApiError naming the parameter that cannot be honoured, or 429 when the project has too many active jobs.
 */
export async function createJob(
  { database, config, storage }: Pick<Dependencies, 'database' | 'config' | 'storage'>,
  projectId: string,
  request: JobRequest,
  id: string = newId('ftjob-'),
): Promise<JobRow> {
  const shape = await readShape({ database, storage }, projectId, request.model);
  return database.transaction(async (tx) => {
    const made = await findJob(tx, projectId, id);
    if (made) return made;
    const { base, tuned, from, method } = await checkRequest(tx, shape, projectId, request);
    await requireJobSlot(tx, config, projectId);
    const warnings = (await canBeTrained(tx, base.id))
      ? []
      : [`No trainer that has the base model '${base.id}' is there: the job waits for one`];
    const job = {
      id,
      projectId,
      model: base.id,
      startModel: tuned?.id ?? null,
      start: from?.start ?? null,
      baseDigest: tuned?.baseDigest ?? null,
      trainingFile: request.training_file,
      validationFile: request.validation_file ?? null,
      suffix: request.suffix ?? null,
      seed: request.seed ?? randomInt(2 ** 31),
      metadata: request.metadata ?? null,
      integrations: request.integrations ?? null,
      method,
      adapter: from?.adapter ?? { peft_type: 'LORA', ...request.adapter },
      trainer: request.trainer ?? {},
    };
    return insertJob(tx, job, warnings);
  });
}

/** A request that can be honoured as far as this can be known before the data is read. */
export interface CheckedRequest {
  base: BaseModelRow;
  tuned: TunedModelRow | null;
  from: StartingPoint | null;
  method: StoredMethod;
  trainingFile: FileRow;
  validationFile: FileRow | null;
}

/**
 * Finds what a request names and checks what it asks for; `shape` is readShape's answer for its model. Throws ApiError
 * naming the parameter.
 */
export async function checkRequest(
  tx: Queryable,
  shape: AdapterShape | null,
  projectId: string,
  request: JobRequest,
): Promise<CheckedRequest> {
  const { type, hyperparameters } = chooseMethod(request);
  const { base, tuned } = await findModel(tx, projectId, request.model);
  const from = tuned && startFrom(shape, tuned, request.adapter);
  checkTrainer(request.trainer ?? {}, hyperparameters, base);
  const trainingFile = await checkFile(tx, projectId, request.training_file, 'training_file');
  if (request.validation_file && request.validation_file === request.training_file) {
    throw invalidValue('validation_file', 'it must not be the training file.');
  }
  const validationFile = request.validation_file
    ? await checkFile(tx, projectId, request.validation_file, 'validation_file')
    : null;
  return { base, tuned, from, method: storedMethod(hyperparameters, type), trainingFile, validationFile };
}

/** From `method` or from the deprecated `hyperparameters`; both only when they agree. */
function chooseMethod({ method, hyperparameters }: Pick<JobRequest, 'method' | 'hyperparameters'>): {
  type: StoredMethod['type'];
  hyperparameters: RequestedDpoHyperparameters;
} {
  const type = method?.type ?? 'supervised';
  if (type === 'reinforcement') {
    throw unsupportedValue(
      'method.type',
      `does not support '${type}' with this server. Use 'supervised' or 'dpo'.`,
    );
  }
  const chosen = method?.[type]?.hyperparameters;
  if (hyperparameters && chosen) {
    const names = ['n_epochs', 'batch_size', 'learning_rate_multiplier'] as const;
    const differs = names.find((name) => (hyperparameters[name] ?? 'auto') !== (chosen[name] ?? 'auto'));
    if (differs) {
      throw badRequest(
        `'hyperparameters.${differs}' and 'method.${type}.hyperparameters.${differs}' disagree. Send 'method' alone.`,
        'hyperparameters',
        'conflicting_parameters',
      );
    }
  }
  return { type, hyperparameters: chosen ?? hyperparameters ?? {} };
}

function checkTrainer(
  trainer: RequestedTrainer,
  requested: RequestedHyperparameters,
  base: BaseModelRow,
): void {
  const multiplier = requested.learning_rate_multiplier;
  if (trainer.learning_rate !== undefined && multiplier !== undefined && multiplier !== 'auto') {
    const message = "'trainer.learning_rate' and 'learning_rate_multiplier' exclude each other.";
    throw badRequest(message, 'trainer.learning_rate', 'conflicting_parameters');
  }
  if (trainer.max_steps === 0)
    throw invalidValue('trainer.max_steps', 'expected -1 (no limit) or at least 1, but got 0.');
  if (trainer.max_length !== undefined && trainer.max_length > base.contextLength) {
    const why = `integer above maximum value. The context of ${base.id} is ${base.contextLength} tokens, but got ${trainer.max_length}.`;
    throw invalidValue('trainer.max_length', why, 'integer_above_max_value');
  }
  if (trainer.max_tokens_per_pack !== undefined && trainer.max_tokens_per_pack < (trainer.max_length ?? 0)) {
    throw invalidValue('trainer.max_tokens_per_pack', "expected at least 'trainer.max_length'.");
  }
}

/** The base model, and the tuned model of the project that the job continues from. Unknown, foreign, deleted: one 400. */
async function findModel(
  tx: Parameters<typeof findTunedModel>[0],
  projectId: string,
  model: string,
): Promise<{ base: BaseModelRow; tuned: TunedModelRow | null }> {
  const plain = await findBaseModel(tx, model);
  if (plain) return { base: plain, tuned: null };
  const tuned = await findTunedModel(tx, projectId, model);
  const base = tuned && (await findBaseModel(tx, tuned.baseModel));
  if (!base) throw modelNotTunable(model);
  return { base, tuned };
}

/** The file exists for this project and is meant for fine-tuning; it cannot be deleted before the job is committed. */
async function checkFile(
  tx: Parameters<typeof lockFile>[0],
  projectId: string,
  id: string,
  param: 'training_file' | 'validation_file',
): Promise<FileRow> {
  const file = await lockFile(tx, projectId, id);
  if (!file) throw badRequest(`invalid ${param}: ${id}`, param);
  if (file.purpose !== 'fine-tune') {
    const message = `File '${id}' has purpose '${file.purpose}'; a ${param} needs purpose 'fine-tune'.`;
    throw badRequest(message, param, 'invalid_file_purpose');
  }
  if (file.status !== 'processed') throw badRequest(`File ${id} is not ready`, param, 'file_not_ready');
  return file;
}
