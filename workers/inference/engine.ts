/**
 * The engine as the HTTP side sees it: a worker thread that takes requests and sends events, so that native calls
 * never block a socket. Knows the messages between the two threads; must not know HTTP or tensors.
 */
import { once } from 'node:events';
import { type MessagePort, Worker } from 'node:worker_threads';
import type { GenerateEvent } from '../../src/inference/protocol.ts';
import type { FullModel } from './full-models.ts';
import type { EngineEvent, GenerationRequest } from './generation.ts';
import { engineLost } from './refusals.ts';

/** Ten minutes: a large model that is read from a slow disk is no hang. */
const STALL_MILLISECONDS = 600_000;

export interface EngineOptions {
  modelDirectory: string;
  device: 'auto' | 'cpu' | 'cuda';
  threads: number;
  /** Memory of the key/value cache; 0 chooses by model and limits. */
  kvCacheBytes: number;
  blockSize: number;
  prefixCache: boolean;
  maxRunning: number;
  maxAdapters: number;
  /** Tokens run in one step at most. */
  tokenBudget: number;
  /** Rounds the linear weights of the models, on the CPU; as they are unless given. */
  quantization?: 'int8' | null;
}

/** What the engine turned out to be once the model was loaded. */
export interface EngineInfo {
  /** Prompt + completion tokens of one sequence; the model's, or what the cache holds if that is less. */
  contextLength: number;
  vocabSize: number;
  device: string;
  kvBlocks: number;
  kvBytes: number;
}

export interface EngineStats {
  running: number;
  waiting: number;
  adapters: string[];
  freeBlocks: number;
  preemptions: number;
}

/** What the thread is started with: it raises `pulse` with every turn. */
export interface EngineThreadData extends EngineOptions {
  pulse: Int32Array;
}

/** How a thread that hangs is noticed, and which program it runs (tests have their own). */
export interface EngineSupervision {
  /** Work waits and no turn is made for so long: the thread hangs. Reading a whole model is one turn. */
  stallMilliseconds: number;
  program?: URL;
}

/** The engine thread works on something without end; only the end of the process ends it. */
export class EngineHangs extends Error {
  override name = 'EngineHangs';
}

export type ToEngine =
  | { type: 'generate'; request: GenerationRequest; fullModel: FullModel | null }
  | { type: 'cancel'; id: number }
  | { type: 'grammar-thread'; thread: number; port: MessagePort };
export type FromEngine =
  | { type: 'ready'; info: EngineInfo }
  | { type: 'events'; events: EngineEvent[]; stats: EngineStats };

/** `fullModel` answers in the base model's place when it is set. */
export type EngineRequest = Omit<GenerationRequest, 'id'> & { fullModel: FullModel | null };

/** One running generation. */
export interface Ticket {
  cancel(): void;
}

/** What the server needs of an engine. */
export interface Generator {
  readonly info: EngineInfo;
  readonly stats: EngineStats;
  /** Starts a generation; `onEvent` gets its events in order, `done` or `error` being the last. */
  generate(request: EngineRequest, onEvent: (event: GenerateEvent) => void): Ticket;
}

export class Engine implements Generator {
  readonly info: EngineInfo;
  stats: EngineStats;
  readonly #thread: Worker;
  readonly #listeners = new Map<number, (event: GenerateEvent) => void>();
  readonly #watchdog: NodeJS.Timeout;
  #nextId = 1;
  #closed = false;

  private constructor(
    thread: Worker,
    info: EngineInfo,
    onCrash: (error: Error) => void,
    watched: { pulse: Int32Array; stallMilliseconds: number },
  ) {
    this.info = info;
    this.stats = { running: 0, waiting: 0, adapters: [], freeBlocks: info.kvBlocks, preemptions: 0 };
    this.#thread = thread;
    thread.on('message', (message: FromEngine) => this.#receive(message));
    let crash: Error | null = null;
    thread.on('error', (error: Error) => {
      crash = error;
    });
    const fail = (error: Error): void => {
      if (this.#closed) return;
      this.#closed = true;
      clearInterval(this.#watchdog);
      this.#endAll();
      onCrash(error);
    };
    thread.on('exit', (code) => fail(crash ?? new Error(`the engine thread ended with code ${code}`)));
    this.#watchdog = this.#watch(watched.pulse, watched.stallMilliseconds, fail);
  }

  #watch(pulse: Int32Array, stallMilliseconds: number, fail: (error: Error) => void): NodeJS.Timeout {
    let seen = Atomics.load(pulse, 0);
    let seenAt = performance.now();
    const look = (): void => {
      const now = Atomics.load(pulse, 0);
      if (now !== seen || this.#listeners.size === 0) [seen, seenAt] = [now, performance.now()];
      else if (performance.now() - seenAt > stallMilliseconds) {
        fail(new EngineHangs(`the engine made no step for ${Math.round(stallMilliseconds / 1000)} seconds`));
      }
    };
    return setInterval(look, Math.min(1000, stallMilliseconds / 4)).unref();
  }

  /**
   * Loads the model in a new thread and resolves when it can generate; rejects with the reason when it cannot.
   * `onCrash` is called once if the thread ends later by itself, or hangs (EngineHangs): the process must then end too.
   */
  static async start(
    options: EngineOptions,
    onCrash: (error: Error) => void,
    { stallMilliseconds, program }: EngineSupervision = { stallMilliseconds: STALL_MILLISECONDS },
  ): Promise<Engine> {
    const pulse = new Int32Array(new SharedArrayBuffer(4));
    const workerData: EngineThreadData = { ...options, pulse };
    const thread = new Worker(program ?? new URL('./engine-thread.ts', import.meta.url), { workerData });
    const exited = new AbortController();
    let cause: Error | null = null; // told before the exit, sometimes in the same turn
    const onError = (error: Error): void => {
      cause = error;
    };
    const onExit = (code: number): void => {
      exited.abort(cause ?? new Error(`the engine thread ended with code ${code} while loading`));
    };
    thread.once('error', onError);
    thread.once('exit', onExit);
    try {
      const [message] = (await once(thread, 'message', { signal: exited.signal })) as [FromEngine];
      if (message.type !== 'ready') throw new Error(`the engine sent ${message.type} before it was ready`);
      return new Engine(thread, message.info, onCrash, { pulse, stallMilliseconds });
    } catch (error) {
      throw exited.signal.aborted ? exited.signal.reason : error;
    } finally {
      thread.off('error', onError);
      thread.off('exit', onExit);
    }
  }

  generate(request: EngineRequest, onEvent: (event: GenerateEvent) => void): Ticket {
    if (this.#closed) {
      onEvent({ type: 'error', error: engineLost() });
      return { cancel: () => undefined };
    }
    const id = this.#nextId++;
    this.#listeners.set(id, onEvent);
    const { fullModel, ...generation } = request;
    this.#send({ type: 'generate', request: { ...generation, id }, fullModel });
    return {
      cancel: () => {
        if (this.#listeners.delete(id)) this.#send({ type: 'cancel', id });
      },
    };
  }

  /** The engine's end of a grammar thread. */
  connectGrammars(thread: number, port: MessagePort): void {
    if (this.#closed) port.close();
    else this.#thread.postMessage({ type: 'grammar-thread', thread, port } satisfies ToEngine, [port]);
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#watchdog);
    this.#endAll();
    await this.#thread.terminate();
  }

  #receive(message: FromEngine): void {
    if (message.type !== 'events') return;
    this.stats = message.stats;
    for (const [id, event] of message.events) {
      const listener = this.#listeners.get(id); // gone when cancelled a moment ago
      if (event.type === 'done' || event.type === 'error') this.#listeners.delete(id);
      listener?.(event);
    }
  }

  #send(message: ToEngine): void {
    this.#thread.postMessage(message);
  }

  #endAll(): void {
    const listeners = [...this.#listeners.values()];
    this.#listeners.clear();
    for (const listener of listeners) listener({ type: 'error', error: engineLost() });
  }
}
