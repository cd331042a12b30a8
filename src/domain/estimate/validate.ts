/** A job's files checked without the job: format, counts and faults with their lines; and single rows with their tokens. */
import type { FileInspection, InspectedRow } from '../../inference/inspection.ts';
import type { Dependencies } from '../dependencies.ts';
import type { JobRequest } from '../jobs/create.ts';
import { filesOf, inspect, planOf } from './inspect.ts';

type Deps = Pick<Dependencies, 'database' | 'config' | 'storage' | 'log'>;

/** Throws ApiError as creating the job would, and 503 when no worker can look into the files. */
export async function validateFiles(
  deps: Deps,
  projectId: string,
  request: JobRequest,
  signal: AbortSignal,
): Promise<FileInspection[]> {
  const plan = await planOf(deps, projectId, request);
  const { files } = await inspect(deps, plan, { files: filesOf(plan), rows: null, training: null }, signal);
  return files;
}

export interface RowsRequest {
  /** First line of the file to show, from 1. */
  line: number;
  count: number;
}

/** Tokens shown at most in one answer: rows beyond are named, their tokens cut. */
const SHOWN_TOKENS_MAX = 16_384;

/** Rows of the training file as the job would learn them. Throws as validateFiles. */
export async function previewRows(
  deps: Deps,
  projectId: string,
  request: JobRequest,
  { line, count }: RowsRequest,
  signal: AbortSignal,
): Promise<InspectedRow[]> {
  const plan = await planOf(deps, projectId, request);
  const files = filesOf(plan).slice(0, 1);
  const rows = { line, count, max_tokens: SHOWN_TOKENS_MAX };
  return (await inspect(deps, plan, { files, rows, training: null }, signal)).rows;
}
