/**
 * Whether schemas can be made into grammars, found out in a thread of its own within a deadline: whatever a schema costs
 * to compile, the event loop of the caller goes on. One request at a time; a thread that takes too long is replaced.
 */
import { Worker } from 'node:worker_threads';
import type { SchemaOptions } from './json-schema.ts';
import { literalLength } from './limits.ts';

export interface CheckRequest {
  schemas: { schema: unknown; options: Omit<SchemaOptions, 'budget'> }[];
}

/** What is wrong with which schema; null = nothing, they compile. */
export type CheckResult = { index: number; why: string } | null;
export type CheckAnswer = CheckResult | 'ready';

/** Too many requests wait already. */
export class CheckerBusy extends Error {}

/** All schemas of a request together; what is longer takes long to hand over. */
const CHARACTERS_MAX = 500_000;
const HEAP_MB = 512;
/** No more than where the grammar is made again to be used. */
const STACK_MB = 1;

interface Job {
  request: CheckRequest;
  resolve: (result: CheckResult) => void;
  reject: (error: unknown) => void;
}

export interface SchemaCheckerOptions {
  /** From the moment the thread begins with a request. */
  deadlineMilliseconds: number;
  /** Requests that wait for the thread. */
  waitingMax: number;
}

export class SchemaChecker {
  readonly #options: SchemaCheckerOptions;
  readonly #jobs: Job[] = [];
  #thread: Worker | null = null;
  #timer: NodeJS.Timeout | null = null;
  #ready = false;

  constructor(options: SchemaCheckerOptions) {
    this.#options = options;
  }

  /** The first thing that is wrong with the schemas, which share their limits. @throws CheckerBusy, or what broke. */
  async check(schemas: CheckRequest['schemas']): Promise<CheckResult> {
    let left = CHARACTERS_MAX;
    for (const [index, { schema }] of schemas.entries()) {
      left -= literalLength(schema, left);
      if (left < 0) return { index, why: `The schemas have more than ${CHARACTERS_MAX} characters.` };
    }
    if (this.#jobs.length >= this.#options.waitingMax) throw new CheckerBusy();
    return new Promise((resolve, reject) => {
      this.#jobs.push({ request: { schemas }, resolve, reject });
      if (!this.#thread) this.#start();
      else if (this.#jobs.length === 1 && this.#ready) this.#next();
    });
  }

  #start(): void {
    this.#ready = false;
    const thread = new Worker(new URL('./check-thread.ts', import.meta.url), {
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MB, stackSizeMb: STACK_MB },
    });
    this.#thread = thread;
    thread.unref();
    let failure: unknown = null;
    thread.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ERR_WORKER_OUT_OF_MEMORY') failure = error;
    });
    thread.on('message', (answer: CheckAnswer) => {
      if (answer === 'ready') this.#ready = true;
      else this.#finish(answer);
      this.#next();
    });
    thread.once('exit', () => {
      this.#thread = null;
      if (failure !== null) this.#take()?.reject(failure);
      else
        this.#finish({
          index: 0,
          why: 'It takes too long or too much memory to compile. Please simplify it.',
        });
      if (this.#jobs.length > 0) this.#start();
    });
  }

  #next(): void {
    const [job] = this.#jobs;
    if (!job) return;
    this.#thread?.postMessage(job.request);
    this.#timer = setTimeout(() => void this.#thread?.terminate(), this.#options.deadlineMilliseconds);
  }

  #finish(result: CheckResult): void {
    this.#take()?.resolve(result);
  }

  #take(): Job | undefined {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    return this.#jobs.shift();
  }
}
