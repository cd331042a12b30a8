/**
 * Creates a job: everything that can be known before the data is read is checked here, so that the answer already says
 * what is wrong. The data itself is checked by a trainer.
 */
import { randomInt } from 'node:crypto';
import { type ApiError, badRequest, invalidValue, modelNotTunable, unsupportedValue } from '../../errors.ts';
import { newId } from '../../ids.ts';
import type { Dependencies } from '../dependencies.ts';
import { lockFile } from '../files/repository.ts';
import { type BaseModelRow, findBaseModel, findTunedModel } from '../models/repository.ts';
import {
  type RequestedAdapter,
  type RequestedHyperparameters,
  type RequestedMethod,
  type RequestedTrainer,
  storedMethod,
} from './methods.ts';
import { insertJob, type JobRow } from './repository.ts';

export interface JobRequest {
  model: string;
  training_file: string;
  validation_file?: string | null;
  suffix?: string | null;
  seed?: number | null;
  metadata?: Record<string, string> | null;
  hyperparameters?: RequestedHyperparameters | null;
  method?: RequestedMethod | null;
  adapter?: RequestedAdapter | null;
  trainer?: RequestedTrainer | null;
}

/** The new job's row. Throws ApiError naming the parameter that cannot be honoured. */
export async function createJob(
  { database }: Pick<Dependencies, 'database'>,
  projectId: string,
  request: JobRequest,
): Promise<JobRow> {
  const hyperparameters = chooseHyperparameters(request);
  return database.transaction(async (tx) => {
    const base = await findBaseModel(tx, request.model);
    if (!base) throw await unknownModel(tx, projectId, request.model);
    checkTrainer(request.trainer ?? {}, hyperparameters, base);
    await checkFile(tx, projectId, request.training_file, 'training_file');
    if (request.validation_file) {
      if (request.validation_file === request.training_file) {
        throw invalidValue('validation_file', 'it must not be the training file.');
      }
      await checkFile(tx, projectId, request.validation_file, 'validation_file');
    }
    return insertJob(tx, {
      id: newId('ftjob-'),
      projectId,
      model: base.id,
      trainingFile: request.training_file,
      validationFile: request.validation_file ?? null,
      suffix: request.suffix ?? null,
      seed: request.seed ?? randomInt(2 ** 31),
      metadata: request.metadata ?? null,
      method: storedMethod(hyperparameters),
      adapter: { peft_type: 'LORA', ...request.adapter },
      trainer: request.trainer ?? {},
    });
  });
}

/** From `method` or from the deprecated `hyperparameters`; both only when they agree. */
function chooseHyperparameters({ method, hyperparameters }: JobRequest): RequestedHyperparameters {
  if (method && method.type !== 'supervised') {
    throw unsupportedValue(
      'method.type',
      `does not support '${method.type}' with this server. Use 'supervised'.`,
    );
  }
  const chosen = method?.supervised?.hyperparameters;
  if (hyperparameters && chosen) {
    const names = ['n_epochs', 'batch_size', 'learning_rate_multiplier'] as const;
    const differs = names.find((name) => (hyperparameters[name] ?? 'auto') !== (chosen[name] ?? 'auto'));
    if (differs) {
      throw badRequest(
        `'hyperparameters.${differs}' and 'method.supervised.hyperparameters.${differs}' disagree. Send 'method' alone.`,
        'hyperparameters',
        'conflicting_parameters',
      );
    }
  }
  return chosen ?? hyperparameters ?? {};
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

/** A tuned model of one's own is told apart from one that does not exist; a foreign one is not. */
async function unknownModel(
  tx: Parameters<typeof findTunedModel>[0],
  projectId: string,
  model: string,
): Promise<ApiError> {
  const own = await findTunedModel(tx, projectId, model);
  if (!own) return modelNotTunable(model);
  const message = `Training on from a fine-tuned model is not supported yet. Start from '${own.baseModel}' instead.`;
  return badRequest(message, 'model', 'model_not_available');
}

/** The file exists for this project and is meant for fine-tuning; it cannot be deleted before the job is committed. */
async function checkFile(
  tx: Parameters<typeof lockFile>[0],
  projectId: string,
  id: string,
  param: 'training_file' | 'validation_file',
): Promise<void> {
  const file = await lockFile(tx, projectId, id);
  if (!file) throw badRequest(`invalid ${param}: ${id}`, param);
  if (file.purpose !== 'fine-tune') {
    const message = `File '${id}' has purpose '${file.purpose}'; a ${param} needs purpose 'fine-tune'.`;
    throw badRequest(message, param, 'invalid_file_purpose');
  }
  if (file.status !== 'processed') throw badRequest(`File ${id} is not ready`, param, 'file_not_ready');
}
