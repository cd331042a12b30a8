/**
 * From a worker's events to OpenAI's chat objects: one completion, or a stream of chunks. Knows the shapes, not where
 * tokens come from.
 */
import { type Completion, generationError } from '../domain/chat/complete.ts';
import type { ApiError } from '../errors.ts';
import { WorkerRefused } from '../inference/client.ts';
import type { GenerateEvent, WireToken } from '../inference/protocol.ts';
import type { ChatCompletion, ChatCompletionChunk, Choice } from './schemas/chat-answer.ts';
import { toUnix } from './schemas/time.ts';

type ChunkChoice = ChatCompletionChunk['choices'][number];
type DoneEvent = Extract<GenerateEvent, { type: 'done' }>;

const presentToken = ({ token, bytes, logprob, top_logprobs }: WireToken) => ({
  token,
  logprob,
  bytes,
  top_logprobs,
});
const presentLogprobs = (tokens: WireToken[]) => ({ content: tokens.map(presentToken), refusal: null });

function presentUsage(done: DoneEvent) {
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

/** Waits for the end and returns the whole answer. Throws ApiError when the worker fails on the way. */
export async function wholeCompletion(
  completion: Completion,
  n: number,
  logprobs: boolean,
): Promise<ChatCompletion> {
  const texts = Array.from({ length: n }, () => '');
  const tokens: WireToken[][] = Array.from({ length: n }, () => []);
  const reasons: Choice['finish_reason'][] = Array.from({ length: n }, () => 'stop');
  let done: DoneEvent | null = null;
  try {
    for await (const event of completion.events) {
      if (event.type === 'delta') {
        texts[event.index] += event.text;
        if (logprobs) tokens[event.index]?.push(...event.tokens);
      } else if (event.type === 'finish') reasons[event.index] = event.reason;
      else if (event.type === 'done') done = event;
      else if (event.type === 'error') throw new WorkerRefused(event.error);
    }
  } catch (error) {
    throw generationError(error) ?? error;
  }
  if (!done) throw new Error('A generation ended without its last event.');
  return {
    id: completion.id,
    object: 'chat.completion',
    created: toUnix(completion.created),
    model: completion.model,
    choices: texts.map((content, index) => ({
      index,
      message: { role: 'assistant', content, refusal: null, annotations: [] },
      logprobs: logprobs ? presentLogprobs(tokens[index] ?? []) : null,
      finish_reason: reasons[index] ?? 'stop',
    })),
    usage: presentUsage(done),
    service_tier: 'default',
    system_fingerprint: completion.fingerprint,
  };
}

export interface ChunkOptions {
  n: number;
  logprobs: boolean;
  includeUsage: boolean;
  /** Logs what nobody expected and says what the caller may see of it. */
  onFailure: (error: unknown) => ApiError;
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
    for (let index = 0; index < options.n; index++) {
      yield chunk(index, { role: 'assistant', content: '', refusal: null }, null, null);
    }
    for await (const event of completion.events) {
      if (event.type === 'delta' && (event.text !== '' || (options.logprobs && event.tokens.length > 0))) {
        yield chunk(event.index, { content: event.text }, event.tokens, null);
      } else if (event.type === 'finish') yield chunk(event.index, {}, null, event.reason);
      else if (event.type === 'done' && options.includeUsage) yield chunk.usage(event);
      else if (event.type === 'error') throw new WorkerRefused(event.error);
    }
    yield '[DONE]';
  } catch (error) {
    if (signal.aborted) return;
    yield JSON.stringify((generationError(error) ?? options.onFailure(error)).toBody());
  }
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
