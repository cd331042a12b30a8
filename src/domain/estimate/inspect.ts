/**
 * Lets a worker of the base model look into the files of a request that is no job: which worker, what it is asked, and
 * what its failures mean to the caller. Knows no tokens.
 */
import { type ApiError, modelUnavailable } from '../../errors.ts';
import { WorkerLost, WorkerRefused } from '../../inference/client.ts';
import {
  type InspectAnswer,
  type InspectedFile,
  type InspectRequest,
  requestInspection,
} from '../../inference/inspection.ts';
import { toApiError } from '../chat/ask-workers.ts';
import { liveWorkerUrls } from '../chat/repository.ts';
import type { Dependencies } from '../dependencies.ts';
import { type CheckedRequest, checkRequest, type JobRequest } from '../jobs/create.ts';
import { type ResolvedHyperparameters, resolveHyperparameters } from '../jobs/hyperparameters.ts';
import {
  MIN_EXAMPLES,
  type RequestedAdapter,
  type RequestedTrainer,
  storedHyperparameters,
} from '../jobs/methods.ts';
import { readShape } from '../jobs/start-model.ts';

type Deps = Pick<Dependencies, 'database' | 'config' | 'storage' | 'log'>;

/** A request as a job would take it, with its settings for any number of examples. */
export interface Plan extends CheckedRequest {
  projectId: string;
  adapter: RequestedAdapter;
  /** Every number in force for `rows` usable examples (at least 1). */
  resolve: (rows: number) => ResolvedHyperparameters;
}

const RETRY_SECONDS = 2;

/** Checks the request as creating a job would. Throws the same ApiErrors; nothing is written. */
export async function planOf(deps: Deps, projectId: string, request: JobRequest): Promise<Plan> {
  const shape = await readShape(deps, projectId, request.model);
  const checked = await deps.database.transaction((tx) => checkRequest(tx, shape, projectId, request));
  const { base, from, method } = checked;
  const adapter = (from?.adapter ?? { peft_type: 'LORA', ...request.adapter }) as RequestedAdapter;
  const config = base.config as Record<string, unknown>;
  const resolve = (rows: number) =>
    resolveHyperparameters({
      method: method.type,
      requested: storedHyperparameters(method),
      adapter,
      trainer: (request.trainer ?? {}) as RequestedTrainer,
      rows,
      parameterCount: base.parameterCount,
      contextLength: base.contextLength,
      baseIsBf16: (config.dtype ?? config.torch_dtype) === 'bfloat16',
    });
  return { ...checked, projectId, adapter, resolve };
}

/** Both files (or one) as a worker is told of them, with the fewest examples a job needs of each. */
export function filesOf({ trainingFile, validationFile }: CheckedRequest): InspectedFile[] {
  const files: InspectedFile[] = [
    {
      param: 'training_file',
      id: trainingFile.id,
      storage_key: trainingFile.storageKey,
      min_examples: MIN_EXAMPLES,
    },
  ];
  if (validationFile) {
    const { id, storageKey } = validationFile;
    files.push({ param: 'validation_file', id, storage_key: storageKey, min_examples: 1 });
  }
  return files;
}

/** Asks the live workers of the base model one after the other. Throws ApiError: 503 when none answers. */
export async function inspect(
  { database, config, log }: Deps,
  { projectId, base, method, resolve }: Plan,
  request: Pick<InspectRequest, 'files' | 'rows' | 'training'>,
  signal: AbortSignal,
): Promise<InspectAnswer> {
  const { max_length, overlong } = resolve(1).trainer;
  const whole: InspectRequest = {
    ...{ base_model: base.id, owner: projectId, method: method.type, max_length, overlong },
    ...{ seconds: config.inspectSeconds, ...request },
  };
  const urls = await liveWorkerUrls(database.db, base.id);
  let refused: ApiError | null = null;
  for (const url of urls) {
    try {
      return await requestInspection(url, config.workerToken, whole, signal);
    } catch (error) {
      if (error instanceof WorkerRefused) {
        if (error.error.status === 400) throw toApiError(error.error);
        refused = toApiError(error.error);
      } else if (!(error instanceof WorkerLost)) throw error;
      log.warn({ err: error, worker: url }, 'worker did not inspect');
    }
  }
  if (refused?.status === 503 || refused?.status === 429) throw refused;
  const why = urls.length === 0 ? 'no worker serves it.' : 'its workers do not answer.';
  throw modelUnavailable(base.id, why, RETRY_SECONDS);
}
