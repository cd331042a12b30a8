/**
 * From a worker's events to OpenAI's chat objects: one completion, or a stream of chunks. Knows the shapes, not where
 * tokens come from.
 */
import { generationError } from '../domain/chat/ask-workers.ts';
import type { Completion } from '../domain/chat/complete.ts';
import { ApiError } from '../errors.ts';
import { WorkerRefused } from '../inference/client.ts';
import type { GenerateEvent, WireToken } from '../inference/protocol.ts';
import {
  type DoneEvent,
  GatheredAnswer,
  type GatheredCall,
  type GatheredChoice,
  gather,
} from './chat-answer.ts';
import type { ChatCompletion, ChatCompletionChunk, Choice } from './schemas/chat-answer.ts';
import { toUnix } from './schemas/time.ts';

type ChunkChoice = ChatCompletionChunk['choices'][number];

const presentToken = ({ token, bytes, logprob, top_logprobs }: WireToken) => ({
  token,
  logprob,
  bytes,
  top_logprobs,
});
const presentLogprobs = (tokens: WireToken[]) => ({ content: tokens.map(presentToken), refusal: null });

export function presentUsage(done: DoneEvent) {
  return {
    prompt_tokens: done.prompt_tokens,
    completion_tokens: done.completion_tokens,
    total_tokens: done.prompt_tokens + done.completion_tokens,
    prompt_tokens_details: { cached_tokens: done.cached_tokens, audio_tokens: 0 },
    completion_tokens_details: {
      reasoning_tokens: 0,
      audio_tokens: 0,
      accepted_prediction_tokens: 0,
      rejected_prediction_tokens: 0,
    },
  };
}

/** How a completion is written. */
export interface AnswerOptions {
  n: number;
  logprobs: boolean;
  /** The request used the old `functions`: calls are answered as `function_call`. */
  legacyFunctions?: boolean;
}

/** Waits for the end and returns the whole answer. Throws ApiError when the worker fails on the way. */
export async function wholeCompletion(
  completion: Completion,
  options: AnswerOptions,
): Promise<ChatCompletion> {
  const answer = await gather(completion, { n: options.n, keepTokens: options.logprobs });
  return presentCompletion(completion, answer, options);
}

function presentCompletion(
  completion: Completion,
  { choices, done }: GatheredAnswer,
  options: AnswerOptions,
): ChatCompletion {
  if (!done) throw new Error('A generation ended without its last event.');
  return {
    id: completion.id,
    object: 'chat.completion',
    created: toUnix(completion.created),
    model: completion.model,
    choices: choices.map((choice, index) => presentChoice(choice, index, options)),
    usage: presentUsage(done),
    service_tier: 'default',
    system_fingerprint: completion.fingerprint,
  };
}

function presentChoice(choice: GatheredChoice, index: number, options: AnswerOptions): Choice {
  const { text, calls, tokens, reason } = choice;
  const [first] = calls;
  return {
    index,
    message: {
      role: 'assistant',
      content: text === '' && first ? null : text,
      refusal: null,
      annotations: [],
      ...(first && options.legacyFunctions
        ? { function_call: { name: first.name, arguments: first.arguments } }
        : {}),
      ...(first && !options.legacyFunctions ? { tool_calls: calls.map(presentCall) } : {}),
    },
    logprobs: options.logprobs ? presentLogprobs(tokens) : null,
    finish_reason: presentReason(reason, options),
  };
}

const presentCall = ({ id, name, arguments: text }: GatheredCall) => ({
  id,
  type: 'function' as const,
  function: { name, arguments: text },
});

const presentReason = (
  reason: GatheredChoice['reason'],
  { legacyFunctions }: AnswerOptions,
): Choice['finish_reason'] => (reason === 'tool_calls' && legacyFunctions ? 'function_call' : reason);

export interface ChunkOptions extends AnswerOptions {
  includeUsage: boolean;
  /** Logs what nobody expected and says what the caller may see of it. */
  onFailure: (error: unknown) => ApiError;
  /** Gets the whole completion before the stream says that it is over. */
  onEnd?: (completion: ChatCompletion) => Promise<void>;
}

/**
 * The chunks of a stream as JSON texts, `[DONE]` at the end. A failure, also to start, becomes one error event after
 * which the stream ends without `[DONE]`; aborting `signal` ends it silently.
 */
export async function* completionChunks(
  starting: Promise<Completion>,
  options: ChunkOptions,
  signal: AbortSignal,
): AsyncGenerator<string, void> {
  try {
    const completion = await starting;
    const chunk = chunkWriter(completion, options);
    const answer = new GatheredAnswer(options.n, options.logprobs && options.onEnd !== undefined);
    for (let index = 0; index < options.n; index++) {
      yield chunk(index, { role: 'assistant', content: '', refusal: null }, null, null);
    }
    for await (const event of completion.events) {
      if (event.type === 'error') throw new WorkerRefused(event.error);
      answer.add(event);
      if (event.type === 'delta' && (event.text !== '' || (options.logprobs && event.tokens.length > 0))) {
        yield chunk(event.index, { content: event.text }, event.tokens, null);
      } else if (event.type === 'tool_call' || event.type === 'tool_arguments') {
        yield chunk(event.index, callDelta(event, answer, options), null, null);
      } else if (event.type === 'finish') {
        yield chunk(event.index, {}, null, presentReason(event.reason, options));
      } else if (event.type === 'done' && options.includeUsage) yield chunk.usage(event);
    }
    await options.onEnd?.(presentCompletion(completion, answer, options));
    yield '[DONE]';
  } catch (error) {
    if (signal.aborted && !(signal.reason instanceof ApiError)) return; // nobody listens
    yield JSON.stringify((generationError(error) ?? options.onFailure(error)).toBody());
  }
}

/** The beginning of a call, or the next piece of its arguments. */
function callDelta(
  event: Extract<GenerateEvent, { type: 'tool_call' | 'tool_arguments' }>,
  { choices }: GatheredAnswer,
  { legacyFunctions }: AnswerOptions,
): ChunkChoice['delta'] {
  const begins = event.type === 'tool_call';
  const piece = begins ? { name: event.name, arguments: '' } : { arguments: event.text };
  if (legacyFunctions) return { function_call: piece };
  const { id } = choices[event.index]!.calls[event.call]!;
  const head = begins ? { id, type: 'function' as const } : {};
  return { tool_calls: [{ index: event.call, ...head, function: piece }] };
}

/** Makes the chunks of one completion: what they share is said once. */
function chunkWriter(completion: Completion, options: ChunkOptions) {
  const write = (choices: ChunkChoice[], usage: ChatCompletionChunk['usage'] = null) =>
    JSON.stringify({
      id: completion.id,
      object: 'chat.completion.chunk',
      created: toUnix(completion.created),
      model: completion.model,
      service_tier: 'default',
      system_fingerprint: completion.fingerprint,
      choices,
      ...(options.includeUsage ? { usage } : {}),
    } satisfies ChatCompletionChunk);
  const choice = (
    index: number,
    delta: ChunkChoice['delta'],
    tokens: WireToken[] | null,
    reason: ChunkChoice['finish_reason'],
  ) => {
    const logprobs = tokens && options.logprobs ? presentLogprobs(tokens) : null;
    return write([{ index, delta, logprobs, finish_reason: reason }]);
  };
  return Object.assign(choice, { usage: (done: DoneEvent) => write([], presentUsage(done)) });
}
