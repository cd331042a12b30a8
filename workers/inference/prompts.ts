/**
 * Messages → prompt tokens in a thread of their own: a long text or a slow template stalls neither sockets nor the
 * engine. Knows the thread and its deadline; templates and tokenizers are the engine library's.
 */
import { Worker } from 'node:worker_threads';
import { badRequest, overloaded } from '../../src/errors.ts';
import type { WireMessage } from '../../src/inference/protocol.ts';

export interface PromptRequest {
  messages: WireMessage[];
  tools: unknown[] | null;
}

export type ToPromptThread = PromptRequest & { id: number };
/** `invalid` is the user's mistake (the template refuses these messages), said in words. */
export type FromPromptThread = { id: number } & ({ tokens: Int32Array } | { invalid: string });

/** What the server needs of a renderer. */
export interface PromptRenderer {
  /** @throws ApiError 400 when the model's template refuses the messages, 503 when nothing comes in time. */
  render(messages: WireMessage[], tools: unknown[] | null): Promise<Int32Array>;
}

interface Job {
  request: ToPromptThread;
  resolve: (tokens: Int32Array) => void;
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

  /** `deadlineMilliseconds`: work on one prompt longer than this is given up and the thread replaced. */
  constructor(modelDirectory: string, deadlineMilliseconds: number) {
    this.#modelDirectory = modelDirectory;
    this.#deadlineMilliseconds = deadlineMilliseconds;
  }

  render(messages: WireMessage[], tools: unknown[] | null): Promise<Int32Array> {
    return new Promise((resolve, reject) => {
      const request = { id: this.#nextId++, messages, tools };
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
    if ('tokens' in answer) job.resolve(answer.tokens);
    else job.reject(badRequest(answer.invalid, 'messages', 'invalid_value'));
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
