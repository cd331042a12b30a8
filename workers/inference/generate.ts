/**
 * The story of one POST /generate: check → take a place → tokens and adapter → engine → stream.
 * Knows the collaborators by their verbs; must not know tensors or how they work.
 */
import { randomBytes } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  type ApiError,
  badRequest,
  baseModelChanged,
  modelNotFound,
  modelUnavailable,
  overloaded,
  rateLimited,
} from '../../src/errors.ts';
import type {
  GenerateEvent,
  GenerateRequest,
  WireAdapter,
  WorkerError,
} from '../../src/inference/protocol.ts';
import { type AdapterFiles, AdapterFilesError, type AdapterFolder, isFullModel } from './adapter-files.ts';
import type { Admission, Place } from './admission.ts';
import type { EngineRequest, Generator } from './engine.ts';
import { EventStream, type EventStreamLimits } from './event-stream.ts';
import type { GrammarCompiler } from './grammar/grammars.ts';
import { type Prepared, prepare } from './prepare.ts';
import type { PromptRenderer } from './prompts.ts';
import { checkLogitBias, parseGenerateRequest, promptBytes, toWorkerError } from './request.ts';
import { ToolEvents } from './tools/events.ts';

/** No tokenizer in use yields more than one token a byte, and none has tokens this long on average. */
const BYTES_PER_TOKEN_MAX = 16;

export interface GenerateDeps {
  baseModel: string;
  /** Which files of it are held (base-digest.ts). */
  baseDigest: string;
  engine: Generator;
  prompts: PromptRenderer;
  grammars: GrammarCompiler;
  adapterFiles: Pick<AdapterFiles, 'acquire'>;
  admission: Admission;
  stream: EventStreamLimits;
  maxBodyBytes: number;
  /** True once no new work is taken. */
  draining: () => boolean;
  /** Aborted when running generations have had their time: they end with an error event. */
  deadline: AbortSignal;
}

/**
 * Answers one request; resolves when the response has ended or the client has gone.
 * @throws ApiError or AnsweredError before the first event: nothing has been written then.
 */
export async function handleGenerate(
  deps: GenerateDeps,
  incoming: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const left = new Promise<void>((resolve) => response.once('close', resolve));
  if (deps.draining()) throw shuttingDown();
  const request = parseGenerateRequest(await readBody(incoming, deps.maxBodyBytes));
  const { contextLength, vocabSize } = deps.engine.info;
  if (request.base_model !== deps.baseModel) throw modelNotFound(request.base_model);
  if (request.base_digest !== undefined && request.base_digest !== deps.baseDigest)
    throw baseModelChanged(request.adapter?.model_id ?? deps.baseModel, deps.baseModel);
  checkLogitBias(request.sampling.logit_bias, vocabSize);
  const bytes = promptBytes(request);
  if (bytes > BYTES_PER_TOKEN_MAX * contextLength) {
    throw contextTooLong(`your prompt has ${bytes} bytes`, contextLength);
  }
  // The place is taken before anything is spent on the request; a prompt has at most as many tokens as bytes.
  const place = deps.admission.reserve(
    request.cache_owner,
    request.sampling.n,
    Math.min(bytes, contextLength),
  );
  if (!place) throw rateLimited('Too many requests are waiting for this model. Please try again.', 1);
  let folder: AdapterFolder | null = null;
  try {
    const [prepared, acquired] = await Promise.allSettled([
      prepare({ ...deps, contextLength, vocabSize }, request),
      request.adapter ? acquire(deps, request.adapter) : null,
    ]);
    if (acquired.status === 'fulfilled') folder = acquired.value;
    if (prepared.status === 'rejected') throw prepared.reason;
    if (acquired.status === 'rejected') throw acquired.reason;
    place.resize(prepared.value.prompt.length);
    if (response.destroyed) return;
    if (deps.deadline.aborted) throw shuttingDown();
    await stream(deps, { request, ...prepared.value, folder, place, response, left });
  } finally {
    folder?.release();
    place.release();
  }
}

/** A request that has everything it needs to run. */
interface Ready extends Prepared {
  request: GenerateRequest;
  folder: AdapterFolder | null;
  place: Place;
  response: ServerResponse;
  /** Resolves when the connection is gone. */
  left: Promise<void>;
}

/** Runs the generation; rejects with AnsweredError when the engine refuses it before the first event. */
async function stream(deps: GenerateDeps, ready: Ready): Promise<void> {
  const { place, response, left, request, tools } = ready;
  const translator = tools && new ToolEvents(request.sampling.n, tools.format, tools.names);
  let events: EventStream | null = null;
  let onDeadline = (): void => undefined;
  const ended = new Promise<void>((resolve, reject) => {
    const onEvent = (event: GenerateEvent): void => {
      if (!events && event.type === 'error') {
        reject(new AnsweredError(event.error));
        return;
      }
      if (!events) {
        place.started();
        events = new EventStream(response, deps.stream, () => ticket.cancel());
      }
      for (const told of translator?.translate(event) ?? [event]) events.write(told);
      if (event.type !== 'done' && event.type !== 'error') return;
      events.end();
      resolve();
    };
    const ticket = deps.engine.generate(engineRequest(ready), onEvent);
    void left.then(() => {
      ticket.cancel();
      resolve();
    });
    onDeadline = () => {
      ticket.cancel();
      onEvent({ type: 'error', error: toWorkerError(shuttingDown()) });
    };
  });
  deps.deadline.addEventListener('abort', onDeadline);
  try {
    await ended;
  } finally {
    deps.deadline.removeEventListener('abort', onDeadline);
  }
}

function engineRequest({ request, prompt, folder, grammar }: Ready): EngineRequest {
  const { adapter, sampling } = request;
  const tuned =
    adapter && folder
      ? { modelId: adapter.model_id, digest: adapter.digest, directory: folder.directory }
      : null;
  const full = adapter !== null && isFullModel(adapter.files);
  return {
    prompt,
    adapter: full ? null : tuned,
    fullModel: full ? tuned : null,
    cacheSalt: cacheSalt(request),
    owner: request.cache_owner,
    sampling,
    seed: sampling.seed ?? randomBytes(6).readUIntLE(0, 6),
    grammar,
    scorePrompt: request.prompt_logprobs ?? null,
  };
}

/**
 * Who may share cached prompts. Timing and `cached_tokens` tell whether a prefix was seen before, so only one owner's
 * requests share; and the same text under other weights has other keys and values.
 */
function cacheSalt({ cache_owner, adapter, prompt_logprobs, request_id }: GenerateRequest): string {
  if (prompt_logprobs !== undefined) return `alone:${request_id}`; // every token must run, to be scored
  return JSON.stringify([cache_owner, adapter && [adapter.model_id, adapter.digest]]);
}

async function acquire(deps: GenerateDeps, adapter: WireAdapter): Promise<AdapterFolder> {
  try {
    return await deps.adapterFiles.acquire(adapter);
  } catch (error) {
    if (!(error instanceof AdapterFilesError)) throw error;
    throw modelUnavailable(adapter.model_id, error.message, error.retryAfterSeconds);
  }
}

/** An error that is already in the wire's terms. */
export class AnsweredError extends Error {
  readonly error: WorkerError;

  constructor(error: WorkerError) {
    super(error.message);
    this.error = error;
  }
}

function shuttingDown(): ApiError {
  return overloaded('This worker is shutting down. Please try again.', 1);
}

function contextTooLong(what: string, contextLength: number): ApiError {
  const message = `This model's maximum context length is ${contextLength} tokens. However, ${what}, which cannot fit. Please reduce the length.`;
  return badRequest(message, 'messages', 'context_length_exceeded');
}

async function readBody(incoming: IncomingMessage, maxBytes: number): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > maxBytes)
      throw badRequest(`The body is larger than ${maxBytes} bytes.`, null, 'payload_too_large');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}
