/**
 * From generations to OpenAI's legacy text completions: one object, or a stream of them. Knows the shapes, not where
 * tokens come from.
 */
import { generationError } from '../domain/chat/ask-workers.ts';
import type { Completion } from '../domain/chat/complete.ts';
import { ApiError } from '../errors.ts';
import { WorkerRefused } from '../inference/client.ts';
import type { WirePromptToken, WireToken } from '../inference/protocol.ts';
import { type DoneEvent, type GatheredAnswer, type GatheredChoice, gather } from './chat-answer.ts';
import { presentUsage } from './chat-objects.ts';
import type { Prompt, TextChoice, TextCompletion, TextLogprobs } from './schemas/completion.ts';
import { toUnix } from './schemas/time.ts';

export interface TextOptions {
  /** Choices shown of each prompt, of `bestOf` that are generated. */
  n: number;
  bestOf: number;
  echo: boolean;
  /** Alternatives shown for every token; null = no log-probabilities. */
  logprobs: number | null;
}

/** One prompt and what was made of it. */
export interface TextAnswer {
  prompt: Prompt;
  completion: Completion;
  answer: GatheredAnswer;
}

/** Reads a generation to its end. Throws ApiError when the worker fails on the way. */
export async function gatherText(
  prompt: Prompt,
  completion: Completion,
  options: TextOptions,
): Promise<TextAnswer> {
  const answer = await gather(completion, { n: options.bestOf, keepTokens: true });
  return { prompt, completion, answer };
}

/** The answers of all prompts as one object; choice i of prompt p has index p·n + i. */
export function presentText(answers: TextAnswer[], options: TextOptions): TextCompletion {
  const choices = answers.flatMap(({ prompt, answer }, p) =>
    best(answer.choices, options).map((choice, i): TextChoice => {
      const writer = new TextWriter(prompt, answer.prompt, options);
      const begun = writer.begin();
      const rest = writer.more(choice.text, choice.tokens);
      const reason = choice.reason === 'tool_calls' ? 'stop' : choice.reason;
      return {
        text: begun.text + rest.text,
        index: p * options.n + i,
        logprobs: joined(begun.logprobs, rest.logprobs),
        finish_reason: reason,
      };
    }),
  );
  return {
    ...head(answers[0]!.completion),
    choices,
    usage: sumUsage(answers.map(({ answer }) => answer.done)),
  };
}

/** The choices with the highest mean log-probability per token, best first; all of them when none is to be left out. */
function best(choices: GatheredChoice[], { n, bestOf }: TextOptions): GatheredChoice[] {
  if (bestOf === n) return choices;
  const mean = ({ tokens }: GatheredChoice) =>
    tokens.reduce((sum, { logprob }) => sum + logprob, 0) / Math.max(1, tokens.length);
  return choices.toSorted((a, b) => mean(b) - mean(a)).slice(0, n);
}

function head(completion: Completion) {
  return {
    id: completion.id,
    object: 'text_completion' as const,
    created: toUnix(completion.created),
    model: completion.model,
    system_fingerprint: completion.fingerprint,
  };
}

function sumUsage(dones: (DoneEvent | null)[]) {
  const total: DoneEvent = { type: 'done', prompt_tokens: 0, completion_tokens: 0, cached_tokens: 0 };
  for (const done of dones) {
    if (!done) throw new Error('A generation ended without its last event.');
    total.prompt_tokens += done.prompt_tokens;
    total.completion_tokens += done.completion_tokens;
    total.cached_tokens += done.cached_tokens;
  }
  return presentUsage(total);
}

export interface TextStreamOptions extends TextOptions {
  includeUsage: boolean;
  onFailure: (error: unknown) => ApiError;
}

/** The objects of a stream as JSON texts, prompt after prompt, `[DONE]` at the end; failures as in chat streams. */
export async function* textChunks(
  starting: { prompt: Prompt; completion: () => Promise<Completion> }[],
  options: TextStreamOptions,
  signal: AbortSignal,
): AsyncGenerator<string, void> {
  const dones: DoneEvent[] = [];
  let first: Completion | null = null;
  try {
    for (const [p, { prompt, completion: start }] of starting.entries()) {
      const completion = await start();
      first ??= completion;
      const write = (choice: TextChoice) => JSON.stringify({ ...head(first!), choices: [choice] });
      for await (const choice of textPieces(prompt, completion, options, dones)) {
        yield write({ ...choice, index: p * options.n + choice.index });
      }
    }
    if (options.includeUsage) yield JSON.stringify({ ...head(first!), choices: [], usage: sumUsage(dones) });
    yield '[DONE]';
  } catch (error) {
    if (signal.aborted && !(signal.reason instanceof ApiError)) return; // nobody listens
    yield JSON.stringify((generationError(error) ?? options.onFailure(error)).toBody());
  }
}

/** The pieces of one prompt's choices; the generation's last event goes to `dones`. */
async function* textPieces(
  prompt: Prompt,
  completion: Completion,
  options: TextOptions,
  dones: DoneEvent[],
): AsyncGenerator<TextChoice, void> {
  let promptTokens: WirePromptToken[] = [];
  const writers: (TextWriter | undefined)[] = [];
  const writerOf = (index: number): [writer: TextWriter, begun: Piece | null] => {
    const known = writers[index];
    if (known) return [known, null];
    const writer = new TextWriter(prompt, promptTokens, options);
    writers[index] = writer;
    return [writer, writer.begin()];
  };
  for await (const event of completion.events) {
    if (event.type === 'error') throw new WorkerRefused(event.error);
    if (event.type === 'prompt') promptTokens = event.tokens;
    else if (event.type === 'done') dones.push(event);
    else if (event.type === 'delta' || event.type === 'finish') {
      const { index } = event;
      const [writer, begun] = writerOf(index);
      if (begun && options.echo) yield { ...begun, index, finish_reason: null };
      if (event.type === 'delta')
        yield { ...writer.more(event.text, event.tokens), index, finish_reason: null };
      else
        yield {
          text: '',
          index,
          logprobs: null,
          finish_reason: event.reason === 'length' ? 'length' : 'stop',
        };
    }
  }
}

interface Piece {
  text: string;
  logprobs: TextLogprobs | null;
}

/** Writes one choice piece by piece, counting where in the text each token begins. */
class TextWriter {
  readonly #prompt: Prompt;
  readonly #promptTokens: WirePromptToken[];
  readonly #options: TextOptions;
  readonly #decoder = new TextDecoder();
  /** Characters (code points) before the next token, from the beginning of the prompt. */
  #offset = 0;

  constructor(prompt: Prompt, promptTokens: WirePromptToken[], options: TextOptions) {
    this.#prompt = prompt;
    this.#promptTokens = promptTokens;
    this.#options = options;
  }

  /** The prompt where it is echoed; nothing otherwise. */
  begin(): Piece {
    const text = typeof this.#prompt === 'string' ? this.#prompt : textOf(this.#promptTokens);
    if (!this.#options.echo) {
      this.#offset = [...text].length;
      return { text: '', logprobs: this.#logprobs([]) };
    }
    return { text, logprobs: this.#logprobs(this.#promptTokens) };
  }

  more(text: string, tokens: WireToken[]): Piece {
    return { text, logprobs: this.#logprobs(tokens) };
  }

  #logprobs(tokens: readonly WirePromptToken[]): TextLogprobs | null {
    const { logprobs } = this.#options;
    if (logprobs === null) return null;
    return {
      tokens: tokens.map(({ token }) => token),
      token_logprobs: tokens.map(({ logprob }) => logprob),
      top_logprobs: logprobs === 0 ? null : tokens.map(alternatives),
      text_offset: tokens.map(({ bytes }) => {
        const at = this.#offset;
        this.#offset += [...this.#decoder.decode(Uint8Array.from(bytes), { stream: true })].length;
        return at;
      }),
    };
  }
}

/** The likeliest tokens, and the one that was taken; null for the first token of a prompt. */
function alternatives({ token, logprob, top_logprobs }: WirePromptToken): Record<string, number> | null {
  if (logprob === null) return null;
  return Object.fromEntries([
    ...top_logprobs.map((top) => [top.token, top.logprob] as const),
    [token, logprob],
  ]);
}

function textOf(tokens: readonly WirePromptToken[]): string {
  return new TextDecoder().decode(Uint8Array.from(tokens.flatMap(({ bytes }) => bytes)));
}

function joined(a: TextLogprobs | null, b: TextLogprobs | null): TextLogprobs | null {
  if (!a || !b) return a ?? b;
  return {
    tokens: [...a.tokens, ...b.tokens],
    token_logprobs: [...a.token_logprobs, ...b.token_logprobs],
    top_logprobs: a.top_logprobs && b.top_logprobs && [...a.top_logprobs, ...b.top_logprobs],
    text_offset: [...a.text_offset, ...b.text_offset],
  };
}
