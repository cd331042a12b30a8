/** A chat completion from name to tokens: which model, and what its workers are asked. */
import { createHash } from 'node:crypto';
import { contextLengthExceeded } from '../../errors.ts';
import { newId } from '../../ids.ts';
import type {
  GenerateEvent,
  GenerateRequest,
  WireAdapter,
  WireMessage,
  WireSampling,
} from '../../inference/protocol.ts';
import type { Dependencies } from '../dependencies.ts';
import { resolveWrittenModel } from '../models/registry.ts';
import type { TunedModelRow } from '../models/repository.ts';
import { askWorkers } from './ask-workers.ts';

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
  /** The caller sends nothing before the end, so that a worker that is lost on the way can be made up for. */
  whole: boolean;
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
  const { model, whole, tools = null, sampling, ...asked } = request;
  const max = sampling.max_tokens;
  const wire: GenerateRequest = {
    ...asked,
    request_id: newId(request.prompt === undefined ? 'chatcmpl-' : 'cmpl-'),
    base_model: base.id,
    ...(tuned?.baseDigest ? { base_digest: tuned.baseDigest } : {}),
    adapter: tuned && learnedBy(tuned),
    cache_owner: projectId,
    tools,
    sampling: { ...sampling, max_tokens: max === null ? null : Math.min(max, base.contextLength) },
  };
  return {
    id: wire.request_id,
    model,
    created: new Date(),
    fingerprint: fingerprintOf(base.id, tuned?.baseDigest ?? base.digest ?? '', tuned?.digest ?? ''),
    events: await askWorkers(deps, { model, wire, whole }, signal),
  };
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

function fingerprintOf(...weights: string[]): string {
  return `fp_${createHash('sha256').update(weights.join('\n')).digest('hex').slice(0, 10)}`;
}
