/**
 * The supervisor's end of one child: starts it, talks to it, notices when it dies or hangs, keeps the end of its error
 * output. Knows no job and no database.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { EXIT, type FromChild, type ToChild } from './messages.ts';
import { ChildCrashed, HandedOver, JobFailed, Paused } from './outcomes.ts';

export interface ChildOptions {
  /** No sign of life for this long: SIGKILL. Rises to 20 times the usual step once steps are known. */
  stallSeconds: number;
  /** Everything that is no reply: steps, checkpoints, warnings. */
  onMessage: (message: FromChild) => void;
  /** One line of the child's standard output or error. */
  onOutput: (line: string) => void;
}

/** Messages that until() hands out; all others go to onMessage. */
const REPLIES = ['prepared', 'started', 'finished'] as const;
type Reply = (typeof REPLIES)[number];

type MessageOf<T extends FromChild['type']> = Extract<FromChild, { type: T }>;

/** Until the first step much can take long (a big file, a big model); afterwards steps set the pace. */
const START_FACTOR = 5;
const STEP_FACTOR = 20;
const STEPS_REMEMBERED = 100;
const STDERR_TAIL_CHARACTERS = 8 * 1024;

export class TrainerChild {
  /** Resolves when the process is gone and everything it sent was handled. Never rejects. */
  readonly exited: Promise<void>;
  readonly #process: ChildProcess;
  readonly #stepTimesMs: number[] = [];
  readonly #replies = new Map<FromChild['type'], FromChild>();
  #waiting: {
    type: FromChild['type'];
    resolve: (message: FromChild) => void;
    reject: (error: Error) => void;
  } | null = null;
  #end: Error | null = null;
  #killedFor: Error | null = null;
  #lastSignAt = performance.now();
  #lastStepAt: number | null = null;
  #stderrTail = '';

  constructor(options: ChildOptions) {
    const entry = fileURLToPath(new URL('./child.ts', import.meta.url));
    this.#process = fork(entry, [], { stdio: ['ignore', 'pipe', 'pipe', 'ipc'] });
    const watchdog = setInterval(
      () => this.#checkStall(options.stallSeconds),
      (options.stallSeconds * 1000) / 10,
    );
    this.#process.on('message', (message: FromChild) => this.#receive(message, options.onMessage));
    for (const stream of [this.#process.stdout!, this.#process.stderr!]) {
      stream.setEncoding('utf8');
      stream.on('data', (text: string) => {
        if (stream === this.#process.stderr)
          this.#stderrTail = (this.#stderrTail + text).slice(-STDERR_TAIL_CHARACTERS);
        for (const line of text.split('\n')) if (line.trim() !== '') options.onOutput(line);
      });
    }
    this.exited = new Promise((resolve) => {
      const finish = (end: Error) => {
        clearInterval(watchdog);
        this.#stop(end);
        resolve();
      };
      this.#process.once('error', (error) =>
        finish(new ChildCrashed(`the process could not run: ${error.message}`)),
      );
      // 'close' and not 'exit': by then the output and every message have been read.
      this.#process.once('close', (code, signal) => finish(this.#describeEnd(code, signal)));
    });
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** Sends a message; a child that is gone misses it, which until() tells. */
  send(message: ToChild): void {
    if (this.#process.connected) this.#process.send(message, () => {});
  }

  /**
   * The child's answer of a type, also one that came before anybody waited. @throws JobFailed when the child reports the job's fault, HandedOver, ChildCrashed when
   * it ends first, and whatever it was killed for.
   */
  until<T extends Reply>(type: T): Promise<MessageOf<T>> {
    const early = this.#replies.get(type);
    this.#replies.delete(type);
    if (early) return Promise.resolve(early as MessageOf<T>);
    if (this.#end) return Promise.reject(this.#end);
    return new Promise((resolve, reject) => {
      this.#waiting = { type, resolve: resolve as (message: FromChild) => void, reject };
    });
  }

  /** SIGKILL. Nothing that matters is lost: only committed folders count. until() throws `reason` from now on. */
  kill(reason: Error): void {
    this.#killedFor ??= reason;
    this.#stop(reason);
    if (this.#process.exitCode === null && this.#process.signalCode === null) this.#process.kill('SIGKILL');
  }

  #receive(message: FromChild, onMessage: (message: FromChild) => void): void {
    this.#lastSignAt = performance.now();
    if (message.type === 'step') {
      if (this.#lastStepAt !== null) this.#stepTimesMs.push(this.#lastSignAt - this.#lastStepAt);
      if (this.#stepTimesMs.length > STEPS_REMEMBERED) this.#stepTimesMs.shift();
      this.#lastStepAt = this.#lastSignAt;
    }
    if (message.type === 'failed') this.#stop(new JobFailed(message.error, message.details));
    else if (!(REPLIES as readonly string[]).includes(message.type)) onMessage(message);
    else if (this.#waiting?.type !== message.type) this.#replies.set(message.type, message);
    else {
      const { resolve } = this.#waiting;
      this.#waiting = null;
      resolve(message);
    }
  }

  #stop(end: Error): void {
    this.#end ??= end;
    this.#waiting?.reject(this.#end);
    this.#waiting = null;
  }

  #describeEnd(code: number | null, signal: NodeJS.Signals | null): Error {
    if (this.#killedFor) return this.#killedFor;
    if (code === EXIT.paused) return new Paused('the child saved a checkpoint and left');
    if (code === EXIT.handedOver) return new HandedOver('the child saved its state and left');
    const how = signal
      ? `signal ${signal}`
      : code === EXIT.deviceError
        ? 'device error'
        : `exit code ${code}`;
    const lastWords = this.#stderrTail.split('\n').filter((line) => line.trim() !== '');
    const error = lastWords.find((line) => /^\w*Error\b/.test(line)) ?? lastWords.at(-1);
    return new ChildCrashed(error ? `${how}: ${error.trim().slice(0, 500)}` : how);
  }

  #checkStall(stallSeconds: number): void {
    const median = this.#stepTimesMs.toSorted((a, b) => a - b)[this.#stepTimesMs.length >> 1];
    const limitMs =
      median === undefined
        ? START_FACTOR * stallSeconds * 1000
        : Math.max(stallSeconds * 1000, STEP_FACTOR * median);
    const silentMs = performance.now() - this.#lastSignAt;
    if (silentMs > limitMs) {
      this.kill(new ChildCrashed(`stalled: no sign of progress for ${Math.round(silentMs / 1000)} seconds`));
    }
  }
}
