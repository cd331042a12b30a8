/**
 * The grammar threads as the HTTP side sees them: compiles a grammar within a deadline, replaces a thread that aborted
 * or hangs, and connects each thread to the engine. Knows threads and errors; grammars are texts to it.
 */
import { once } from 'node:events';
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import { badRequest, overloaded } from '../../../src/errors.ts';
import type { CompiledGrammar, FromGrammarThread, GrammarSource, ToGrammarThread } from './messages.ts';

export interface GrammarsOptions {
  modelDirectory: string;
  /** Threads; a grammar that takes long to compile delays only the choices of its own. */
  threads: number;
  /** A grammar that takes longer is refused. */
  deadlineMilliseconds: number;
  /** Hands the engine its end of a new thread. */
  connect: (thread: number, port: MessagePort) => void;
}

/** What the server needs of it. */
export interface GrammarCompiler {
  /** @throws ApiError 400 (naming `param`) when the grammar cannot be compiled in time, 503 when the thread was lost. */
  compile(source: GrammarSource, param: string): Promise<CompiledGrammar>;
}

interface Job {
  id: number;
  source: GrammarSource;
  resolve: () => void;
  reject: (reason: 'refused' | 'slow' | 'closed') => void;
}

export class Grammars implements GrammarCompiler {
  readonly #options: GrammarsOptions;
  readonly #threads: (GrammarThread | null)[];
  #closed = false;

  constructor(options: GrammarsOptions) {
    this.#options = options;
    this.#threads = Array.from({ length: options.threads }, () => null);
  }

  async compile(source: GrammarSource, param: string): Promise<CompiledGrammar> {
    const index = this.#leastBusy();
    this.#threads[index] ??= new GrammarThread(this.#options, index, () => {
      this.#threads[index] = this.#closed ? null : this.#threads[index]!.successor();
    });
    const failure = await this.#threads[index].compile(source);
    if (failure === null) return { source, thread: index };
    if (failure === 'closed')
      throw overloaded('Constrained decoding is not available at the moment. Please try again.', 1);
    const why = failure === 'slow' ? 'takes too long to compile' : 'cannot be turned into a grammar';
    throw badRequest(
      `Invalid '${param}': the schema ${why}. Please simplify it.`,
      param,
      'schema_too_complex',
    );
  }

  /** Ends every thread as a crash would; the grammars in use go on in their successors. */
  interrupt(): void {
    for (const thread of this.#threads) thread?.interrupt();
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(this.#threads.map((thread) => thread?.close()));
  }

  /**
   * The thread with the fewest grammars waiting. An idle thread is preferred to one that must start, and that to one
   * with choices that would wait for their masks meanwhile.
   */
  #leastBusy(): number {
    let best = 0;
    const load = (index: number) => this.#threads[index]?.load ?? 0.5;
    for (let index = 1; index < this.#threads.length; index++) if (load(index) < load(best)) best = index;
    return best;
  }
}

class GrammarThread {
  readonly #options: GrammarsOptions;
  readonly #index: number;
  readonly #thread: Worker;
  readonly #onEnd: () => void;
  #jobs: Job[] = [];
  #timer: NodeJS.Timeout | null = null;
  #closed = false;
  #ready = false;
  /** Choices that follow their grammars here. */
  #open = 0;
  #nextId = 1;

  constructor(options: GrammarsOptions, index: number, onEnd: () => void, jobs: Job[] = []) {
    this.#options = options;
    this.#index = index;
    this.#onEnd = onEnd;
    this.#thread = new Worker(new URL('./grammar-thread.ts', import.meta.url), {
      workerData: { modelDirectory: options.modelDirectory },
    });
    this.#thread.on('message', (message: FromGrammarThread) => this.#receive(message));
    this.#thread.on('error', () => undefined); // its exit follows and is what counts
    this.#thread.once('exit', () => this.#ended());
    const { port1, port2 } = new MessageChannel();
    this.#thread.postMessage({ type: 'engine', port: port1 } satisfies ToGrammarThread, [port1]);
    options.connect(index, port2);
    for (const job of jobs) this.#submit(job);
  }

  /** Grammars that wait; between 0.5 and 1 for choices that are open. */
  get load(): number {
    return this.#jobs.length + (this.#open > 0 ? 0.75 : 0);
  }

  compile(source: GrammarSource): Promise<'refused' | 'slow' | 'closed' | null> {
    return new Promise((resolve) => {
      this.#submit({ id: 0, source, resolve: () => resolve(null), reject: resolve });
    });
  }

  /** The thread in this one's place, with the work that this one has not done; null when it could not even start. */
  successor(): GrammarThread | null {
    const jobs = this.#jobs;
    this.#jobs = [];
    if (!this.#ready) {
      for (const job of jobs) job.reject('closed');
      return null;
    }
    return new GrammarThread(this.#options, this.#index, this.#onEnd, jobs);
  }

  interrupt(): void {
    void this.#thread.terminate();
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const job of this.#jobs.splice(0)) job.reject('closed');
    if (this.#timer) clearTimeout(this.#timer);
    const gone = once(this.#thread, 'exit');
    await this.#thread.terminate();
    await gone.catch(() => undefined);
  }

  #submit(job: Job): void {
    this.#jobs.push({ ...job, id: this.#nextId++ });
    const { id } = this.#jobs.at(-1)!;
    this.#thread.postMessage({ type: 'compile', id, source: job.source } satisfies ToGrammarThread);
    if (this.#jobs.length === 1) this.#watch();
  }

  #receive(message: FromGrammarThread): void {
    if (message.type === 'ready') {
      this.#ready = true;
      this.#watch(); // the clock of the first grammar does not count the start
      return;
    }
    if (message.type === 'states') {
      this.#open = message.open;
      return;
    }
    const at = this.#jobs.findIndex(({ id }) => id === message.id);
    const [job] = at < 0 ? [] : this.#jobs.splice(at, 1);
    if (message.type === 'compiled') job?.resolve();
    else job?.reject('refused');
    this.#watch();
  }

  #watch(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#jobs.length === 0) return;
    this.#timer = setTimeout(() => {
      this.#jobs.shift()?.reject('slow');
      void this.#thread.terminate();
    }, this.#options.deadlineMilliseconds);
  }

  #ended(): void {
    if (this.#timer) clearTimeout(this.#timer);
    if (!this.#closed) this.#onEnd();
  }
}
