/**
 * Messages → prompt tokens in a thread of their own: a long text or a slow template stalls neither sockets nor the
 * engine. Knows the thread and its deadline; templates and tokenizers are the engine library's.
 */
import { Worker } from 'node:worker_threads';
import { badRequest, overloaded } from '../../src/errors.ts';
import type { WireMessage } from '../../src/inference/protocol.ts';
import type { ToolFormat } from './tools/format.ts';

export type PromptRequest =
  | { kind: 'messages'; messages: WireMessage[]; tools: unknown[] | null; enableThinking: boolean | null }
  | { kind: 'text'; text: string }
  | { kind: 'tool-format' };

export type ToPromptThread = PromptRequest & { id: number };
/** `invalid` is the user's mistake (the template refuses these messages), said in words. */
export type PromptAnswer = { tokens: Int32Array } | { toolFormat: ToolFormat | null } | { invalid: string };
export type FromPromptThread = { id: number } & PromptAnswer;

/** What the server needs of a renderer. */
export interface PromptRenderer {
  /**
   * `enableThinking` is for templates that can switch their thinking on and off; null leaves it to them.
   * @throws ApiError 400 when the model's template refuses the messages, 503 when nothing comes in time.
   */
  render(
    messages: WireMessage[],
    tools: unknown[] | null,
    enableThinking?: boolean | null,
  ): Promise<Int32Array>;
  /** Plain text as tokens, with what the model expects before every text. */
  encode(text: string): Promise<Int32Array>;
  /** How this model writes tool calls; null when its template knows none. */
  toolFormat(): Promise<ToolFormat | null>;
}

interface Job {
  request: ToPromptThread;
  resolve: (answer: PromptAnswer) => void;
  reject: (error: Error) => void;
}

export class PromptThread implements PromptRenderer {
  readonly #modelDirectory: string;
  readonly #deadlineMilliseconds: number;
  /** In the order in which the thread works; the first is being worked on. */
  readonly #jobs = new Map<number, Job>();
  /** Started by the first prompt, and again after it died or was given up. */
  #thread: Worker | null = null;
  #timer: NodeJS.Timeout | null = null;
  #nextId = 1;
  #toolFormat: ToolFormat | null | undefined;

  /** `deadlineMilliseconds`: work on one prompt longer than this is given up and the thread replaced. */
  constructor(modelDirectory: string, deadlineMilliseconds: number) {
    this.#modelDirectory = modelDirectory;
    this.#deadlineMilliseconds = deadlineMilliseconds;
  }

  async render(
    messages: WireMessage[],
    tools: unknown[] | null,
    enableThinking: boolean | null = null,
  ): Promise<Int32Array> {
    return tokensOf(await this.#ask({ kind: 'messages', messages, tools, enableThinking }));
  }

  async encode(text: string): Promise<Int32Array> {
    return tokensOf(await this.#ask({ kind: 'text', text }));
  }

  async toolFormat(): Promise<ToolFormat | null> {
    if (this.#toolFormat === undefined) {
      const answer = await this.#ask({ kind: 'tool-format' });
      if (!('toolFormat' in answer)) throw new Error('the prompt thread did not say how tools are called');
      this.#toolFormat = answer.toolFormat;
    }
    return this.#toolFormat;
  }

  #ask(asked: PromptRequest): Promise<PromptAnswer> {
    return new Promise((resolve, reject) => {
      const request = { id: this.#nextId++, ...asked };
      this.#jobs.set(request.id, { request, resolve, reject });
      this.#thread ??= this.#start();
      this.#thread.postMessage(request satisfies ToPromptThread);
      if (this.#jobs.size === 1) this.#watch();
    });
  }

  async close(): Promise<void> {
    if (this.#timer) clearTimeout(this.#timer);
    for (const job of this.#jobs.values()) job.reject(new Error('the prompt thread was closed'));
    this.#jobs.clear();
    const thread = this.#thread;
    this.#thread = null;
    await thread?.terminate();
  }

  #start(): Worker {
    const thread = new Worker(new URL('./prompt-thread.ts', import.meta.url), {
      workerData: { modelDirectory: this.#modelDirectory },
      resourceLimits: { maxOldGenerationSizeMb: 2048 },
    });
    thread.on('message', (answer: FromPromptThread) => this.#receive(answer));
    thread.on('error', (error) => {
      if (thread === this.#thread) this.#replace((job) => job.reject(error));
    });
    return thread;
  }

  #receive(answer: FromPromptThread): void {
    const job = this.#jobs.get(answer.id);
    if (!job) return;
    this.#jobs.delete(answer.id);
    this.#watch();
    if ('invalid' in answer) {
      const param = job.request.kind === 'text' ? 'prompt' : 'messages';
      job.reject(badRequest(answer.invalid, param, 'invalid_value'));
    } else job.resolve(answer);
  }

  /** Gives the prompt that is being worked on its deadline. */
  #watch(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#jobs.size === 0) return;
    this.#timer = setTimeout(() => {
      const why = `These messages took more than ${this.#deadlineMilliseconds} ms to turn into tokens.`;
      this.#replace((job) => job.reject(overloaded(`${why} Please try again.`, 1)));
    }, this.#deadlineMilliseconds);
  }

  /** Replaces a thread that died or hangs: the prompt it had is given up, the others start again. */
  #replace(giveUp: (job: Job) => void): void {
    void this.#thread?.terminate();
    this.#thread = null;
    const [current] = this.#jobs.values();
    if (current) {
      this.#jobs.delete(current.request.id);
      giveUp(current);
    }
    for (const { request } of this.#jobs.values()) {
      this.#thread ??= this.#start();
      this.#thread.postMessage(request);
    }
    this.#watch();
  }
}

function tokensOf(answer: PromptAnswer): Int32Array {
  if (!('tokens' in answer)) throw new Error('the prompt thread answered something else than tokens');
  return answer.tokens;
}
