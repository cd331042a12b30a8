/**
 * The wire by which the API asks an inference worker what a data file holds: POST /inspect with InspectRequest → 200
 * InspectAnswer, or a WorkerError body. Only workers have tokenizers; no device is used for it. Bounded: reading stops
 * after `seconds`, and the answer says how far it came.
 */
import { WorkerLost, WorkerRefused } from './client.ts';
import type { WorkerError } from './protocol.ts';

export interface InspectedFile {
  param: 'training_file' | 'validation_file';
  /** Public id, for messages. */
  id: string;
  storage_key: string;
  min_examples: number;
}

/** What a training would need memory for. */
export interface InspectedTraining {
  adapter: { r: number; target_modules: 'all-linear' | string[] } | null; // null: the whole model is trained
  dtype: 'bf16' | 'f32';
  /** Tokens of one micro-batch. */
  pack_tokens: number;
}

export interface InspectRequest {
  base_model: string;
  /** The project that asks: projects take turns. */
  owner: string;
  method: 'supervised' | 'dpo';
  max_length: number;
  overlong: 'truncate' | 'drop' | 'error';
  files: InspectedFile[];
  /** Reading ends after this long, for all files together. */
  seconds: number;
  /** Show these rows of the first file, instead of counting. */
  rows: { line: number; count: number; max_tokens: number } | null;
  training: InspectedTraining | null;
}

export interface InspectedIssue {
  line: number | null;
  code: string;
  message: string;
  param: string | null;
}

export interface FileInspection {
  param: 'training_file' | 'validation_file';
  /** null when no row has a known one. */
  format: string | null;
  /** False when the time was up before the end: the counts are of the first `bytes_read` bytes. */
  complete: boolean;
  bytes_read: number;
  rows: number;
  examples: number;
  tokens: number;
  labelled_tokens: number;
  /** Tokens of the longest example, both answers of a pair together. */
  longest_example: number;
  truncated: number;
  dropped: number;
  warnings: { code: string; message: string }[];
  errors: InspectedIssue[];
  errors_total: number;
}

export interface InspectedToken {
  id: number;
  /** What this token adds to the text: '' while a character is still incomplete. */
  text: string;
  learned: boolean;
}

export interface InspectedRow {
  line: number;
  format: string | null;
  sequences: {
    name: 'example' | 'preferred_output' | 'non_preferred_output';
    truncated: boolean;
    tokens_total: number;
    /** The first `max_tokens` of all sequences of the answer. */
    tokens: InspectedToken[];
  }[];
  errors: InspectedIssue[];
}

/** Bytes of one training on one device kind, with activations kept and with activations computed again. */
export interface InspectedMemory {
  trainable_parameters: number;
  total_parameters: number;
  cpu: { bytes: number; recomputed_bytes: number };
  cuda: { bytes: number; recomputed_bytes: number };
}

export interface InspectAnswer {
  files: FileInspection[];
  rows: InspectedRow[];
  memory: InspectedMemory | null;
}

/**
 * Asks the worker at `url`.
 * @throws WorkerRefused, WorkerLost; the signal's reason when it was aborted.
 */
export async function requestInspection(
  url: string,
  token: string,
  request: InspectRequest,
  signal: AbortSignal,
): Promise<InspectAnswer> {
  let response: Response;
  let body: unknown;
  try {
    response = await fetch(new URL('/inspect', url), {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify(request),
      redirect: 'error',
      signal,
    });
    body = await response.json();
  } catch (error) {
    signal.throwIfAborted();
    throw new WorkerLost('the worker did not answer an inspection', { cause: error });
  }
  if (response.status === 200) return body as InspectAnswer;
  const { status, type, message } = body as Partial<WorkerError>;
  if (typeof status === 'number' && typeof type === 'string' && typeof message === 'string') {
    throw new WorkerRefused({ code: null, param: null, ...(body as Partial<WorkerError>) } as WorkerError);
  }
  throw new WorkerLost(`the worker answered ${response.status} without a reason`);
}
