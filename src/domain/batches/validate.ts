/**
 * The look at a whole input file before its first request runs: every line a request of its own name, all for one
 * model that the project has. Reports the first faults by line.
 */
import type { BatchLineError } from '../../db/schema-batches.ts';
import { ApiError } from '../../errors.ts';
import type { Dependencies } from '../dependencies.ts';
import { resolveModel } from '../models/registry.ts';
import { LINES_MAX, type LinePlace, parseLine, readLines } from './input.ts';

const ERRORS_MAX = 100;

export type Verdict = { errors: BatchLineError[] } | { model: string };

/** Reads the file once. `signal` ends it early with the signal's reason. */
export async function validateInput(
  deps: Pick<Dependencies, 'database' | 'storage'>,
  batch: { projectId: string; endpoint: string },
  storageKey: string,
  places: readonly LinePlace[],
  signal: AbortSignal,
): Promise<Verdict> {
  const whole = (code: string, message: string): Verdict => ({
    errors: [{ code, message, param: null, line: null }],
  });
  if (places.length === 0)
    return whole(
      'empty_file',
      'The input file is empty. Please ensure that the batch contains at least one request.',
    );
  if (places.length > LINES_MAX)
    return whole(
      'too_many_tasks',
      `The batch input file contains more than the maximum of ${LINES_MAX} requests.`,
    );
  const errors: BatchLineError[] = [];
  const seen = new Set<string>();
  let model: string | null = null;
  for await (const [{ number: line }, bytes] of readLines(deps.storage, storageKey, places)) {
    signal.throwIfAborted();
    const request = parseLine(bytes, batch.endpoint);
    if ('code' in request) errors.push({ ...request, line });
    else {
      if (seen.has(request.customId)) errors.push({ ...DUPLICATE, line });
      seen.add(request.customId);
      model ??= request.model;
      if (request.model !== model) errors.push({ ...mismatch(request.model, model), line });
    }
    if (errors.length >= ERRORS_MAX) break;
  }
  if (model !== null) {
    const unknown = await modelProblem(deps, batch.projectId, model);
    if (unknown) errors.unshift(unknown);
  }
  return errors.length > 0 ? { errors: errors.slice(0, ERRORS_MAX) } : { model: model! };
}

const DUPLICATE = {
  code: 'duplicate_custom_id',
  message:
    'The custom_id for this request is a duplicate of another request. The custom_id parameter must be unique for each request in a batch.',
  param: 'custom_id',
};

const mismatch = (model: string, first: string) => ({
  code: 'mismatched_model',
  message: `The model '${model.slice(0, 200)}' does not match '${first.slice(0, 200)}', which the batch began with: all requests of a batch use one model.`,
  param: 'body.model',
});

async function modelProblem(
  deps: Pick<Dependencies, 'database'>,
  projectId: string,
  model: string,
): Promise<BatchLineError | null> {
  try {
    await resolveModel(deps, projectId, model);
    return null;
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 404) throw error;
    return { code: 'model_not_found', message: error.message, param: 'body.model', line: 1 };
  }
}
