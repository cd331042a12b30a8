/**
 * A chat completion from name to tokens: which model, which worker, and what its failures mean to the caller. Another
 * worker is asked only as long as no token has come: what was sent cannot be taken back.
 */
import { createHash } from 'node:crypto';
import { ApiError, contextLengthExceeded, modelUnavailable } from '../../errors.ts';
import { newId } from '../../ids.ts';
import { openGeneration, WorkerLost, WorkerRefused } from '../../inference/client.ts';
import type {
  GenerateEvent,
  GenerateRequest,
  WireAdapter,
  WireMessage,
  WireSampling,
  WorkerError,
} from '../../inference/protocol.ts';
import type { Dependencies } from '../dependencies.ts';
import { resolveWrittenModel } from '../models/registry.ts';
import type { TunedModelRow } from '../models/repository.ts';
import { liveWorkerUrls } from './repository.ts';

/** What is asked of a model; what is absent is left to the worker. */
export interface ChatRequest
  extends Pick<
    GenerateRequest,
    'tool_choice' | 'response_format' | 'prompt' | 'prompt_logprobs' | 'enable_thinking'
  > {
  model: string;
  messages: WireMessage[];
  tools?: unknown[];
  sampling: WireSampling;
}

/** A generation that has begun: its first token is there. */
export interface Completion {
  id: string;
  model: string;
  created: Date;
  /** Names the weights that answer; changes when they do. */
  fingerprint: string;
  events: AsyncGenerator<GenerateEvent, void>;
}

type Deps = Pick<Dependencies, 'database' | 'config' | 'log'>;

const RETRY_SECONDS = 2;
/** No tokenizer in use has longer tokens on average. */
const BYTES_PER_TOKEN_MAX = 16;

/**
 * Starts the generation; `signal` ends it. Throws ApiError: 404 unknown model, 400 for what the worker cannot do, 429
 * and 503 (with retry-after) when every worker is busy or away.
 */
export async function startCompletion(
  deps: Deps,
  projectId: string,
  request: ChatRequest,
  signal: AbortSignal,
): Promise<Completion> {
  const { base, tuned } = await resolveWrittenModel(deps, projectId, request.model);
  checkLength(request, base.contextLength);
  const { model: _, tools = null, sampling, ...asked } = request;
  const max = sampling.max_tokens;
  const wire: GenerateRequest = {
    ...asked,
    request_id: newId(request.prompt === undefined ? 'chatcmpl-' : 'cmpl-'),
    base_model: base.id,
    adapter: tuned && learnedBy(tuned),
    cache_owner: projectId,
    tools,
    sampling: { ...sampling, max_tokens: max === null ? null : Math.min(max, base.contextLength) },
  };
  return {
    id: wire.request_id,
    model: request.model,
    created: new Date(),
    fingerprint: fingerprintOf(base.id, tuned?.digest ?? ''),
    events: await firstAnswer(deps, request.model, wire, signal),
  };
}

/** What a worker's error event, or its loss after the first token, is to the caller; null for anything else. */
export function generationError(error: unknown): ApiError | null {
  if (error instanceof WorkerRefused) return toApiError(error.error);
  if (!(error instanceof WorkerLost)) return null;
  return new ApiError({
    status: 503,
    message: 'The worker that generated this answer was lost. Please try again.',
    type: 'server_error',
    code: 'worker_lost',
    headers: { 'retry-after': String(RETRY_SECONDS) },
  });
}

export function toApiError(error: WorkerError): ApiError {
  const retry = error.retry_after_seconds;
  return new ApiError({ ...error, headers: retry === undefined ? {} : { 'retry-after': String(retry) } });
}

/** Asks the live workers in random order until one has sent a token (or ended). */
async function firstAnswer(
  { database, config, log }: Deps,
  model: string,
  wire: GenerateRequest,
  signal: AbortSignal,
): Promise<AsyncGenerator<GenerateEvent, void>> {
  const urls = shuffled(await liveWorkerUrls(database.db, wire.base_model));
  let refused: ApiError | null = null;
  for (const url of urls) {
    try {
      return await untilFirstToken(await openGeneration(url, config.workerToken, wire, signal));
    } catch (error) {
      if (error instanceof WorkerRefused) {
        if (error.error.status < 500 && error.error.status !== 429) throw toApiError(error.error);
        refused = toApiError(error.error);
      } else if (!(error instanceof WorkerLost)) throw error;
      log.warn({ err: error, worker: url, completion: wire.request_id }, 'worker did not answer');
    }
  }
  if (refused && refused.status !== 500) throw refused;
  throw modelUnavailable(
    model,
    urls.length === 0 ? 'no worker serves it.' : 'its workers do not answer.',
    RETRY_SECONDS,
  );
}

/** Reads on to the first event that carries output, and returns all events again. */
async function untilFirstToken(
  events: AsyncGenerator<GenerateEvent, void>,
): Promise<AsyncGenerator<GenerateEvent, void>> {
  const early: GenerateEvent[] = [];
  for (;;) {
    const next = await events.next();
    if (next.done) throw new WorkerLost('the worker ended without an answer');
    if (next.value.type === 'error') throw new WorkerRefused(next.value.error);
    early.push(next.value);
    if (next.value.type !== 'start') return replay(early, events);
  }
}

async function* replay(
  early: GenerateEvent[],
  rest: AsyncGenerator<GenerateEvent, void>,
): AsyncGenerator<GenerateEvent, void> {
  try {
    yield* early;
    yield* rest;
  } finally {
    await rest.return();
  }
}

/** What was learned, adapter or whole model: the worker tells them apart by their files. */
function learnedBy(tuned: TunedModelRow): WireAdapter {
  return {
    model_id: tuned.id,
    digest: tuned.digest,
    storage_prefix: tuned.storagePrefix,
    files: tuned.files,
  };
}

/** Refuses by bytes what cannot fit whatever the tokenizer, before a worker is troubled. */
function checkLength({ messages, prompt }: ChatRequest, contextLength: number): void {
  let bytes = typeof prompt === 'string' ? Buffer.byteLength(prompt) : 0;
  for (const { content } of messages) bytes += content === null ? 0 : Buffer.byteLength(content);
  if (bytes > contextLength * BYTES_PER_TOKEN_MAX) {
    throw contextLengthExceeded(contextLength, Math.ceil(bytes / BYTES_PER_TOKEN_MAX), 0);
  }
}

function fingerprintOf(base: string, digest: string): string {
  return `fp_${createHash('sha256').update(`${base}\n${digest}`).digest('hex').slice(0, 10)}`;
}

function shuffled<T>(items: T[]): T[] {
  return items
    .map((item) => [Math.random(), item] as const)
    .toSorted(([a], [b]) => a - b)
    .map(([, item]) => item);
}
