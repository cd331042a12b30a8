/**
 * A peer as a child process that speaks lines of JSON: it says `{"ready": true, …}` once, then answers each line
 * `{"run": …}` with `{"seconds": …, …}` or `{"error": "…"}`. It is stopped (SIGSTOP) whenever nobody waits for it, so
 * that threads which spin between calls cost the other side nothing.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import type { Block, Side } from './interleave.ts';

const ERROR_TAIL = 2000;

export interface PeerOptions {
  cwd?: string;
  /** Added to this process's environment. */
  env?: Record<string, string>;
  /** Longest wait for the start and for one answer, in seconds. */
  timeoutS?: number;
}

/** A peer that could not be started, refused a request, answered with what is no JSON object, or went away. */
export class PeerError extends Error {
  override name = 'PeerError';
}

export class PeerProcess {
  readonly name: string;
  /** What it said when it was ready: versions, threads, precision. */
  facts: Record<string, unknown> = {};
  readonly #child: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #timeoutS: number;
  #waiting: ((line: string | Error) => void) | undefined;
  #unread = '';
  #errors = '';
  #gone: PeerError | undefined;

  private constructor(name: string, command: string[], options: PeerOptions) {
    this.name = name;
    this.#timeoutS = options.timeoutS ?? 300;
    this.#child = spawn(command[0]!, command.slice(1), {
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    this.#child.stdout.setEncoding('utf8').on('data', (text: string) => this.#read(text));
    this.#child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#errors = (this.#errors + text).slice(-ERROR_TAIL);
    });
    // A write to a process that is gone is told by `close` too, with what it said last.
    this.#child.stdin.on('error', () => {});
    this.#child.on('error', (error) => this.#end(`could not be started: ${error.message}`));
    this.#child.on('close', (code, signal) => this.#end(`ended with ${code ?? signal}`));
  }

  /** Starts `command` and waits until it is ready. Throws a PeerError with what it wrote to stderr. */
  static async start(name: string, command: string[], options: PeerOptions = {}): Promise<PeerProcess> {
    const peer = new PeerProcess(name, command, options);
    const facts = await peer.#answer();
    if (facts.ready !== true) {
      peer.close();
      throw new PeerError(`${name} began with ${JSON.stringify(facts)} instead of {"ready": true}`);
    }
    peer.facts = facts;
    return peer;
  }

  /** Sends one request and gives its answer. Throws a PeerError, also for `{"error": …}`. */
  async ask(request: Record<string, unknown>): Promise<Record<string, unknown>> {
    if (this.#gone) throw this.#gone;
    this.#child.kill('SIGCONT');
    this.#child.stdin.write(`${JSON.stringify(request)}\n`);
    return this.#answer();
  }

  /** Asking for `run` as one side of a comparison. */
  side(run: unknown): Side {
    return { name: this.name, run: async () => (await this.ask({ run })) as Block };
  }

  close(): void {
    this.#child.kill('SIGKILL');
  }

  async #answer(): Promise<Record<string, unknown>> {
    const line = await this.#line();
    if (!this.#gone) this.#child.kill('SIGSTOP');
    let answer: unknown;
    try {
      answer = JSON.parse(line);
    } catch {
      throw new PeerError(`${this.name} wrote a line that is no JSON: ${line.slice(0, 200)}`);
    }
    if (typeof answer !== 'object' || answer === null)
      throw new PeerError(`${this.name} wrote ${line.slice(0, 200)} instead of an object`);
    if ('error' in answer) throw new PeerError(`${this.name}: ${String(answer.error)}`);
    return answer as Record<string, unknown>;
  }

  #line(): Promise<string> {
    return new Promise((resolve, reject) => {
      if (this.#gone) return reject(this.#gone);
      const timer = setTimeout(() => {
        this.close();
        this.#end(`gave no answer within ${this.#timeoutS} s`);
      }, this.#timeoutS * 1000);
      this.#waiting = (line) => {
        clearTimeout(timer);
        this.#waiting = undefined;
        if (typeof line === 'string') resolve(line);
        else reject(line);
      };
      this.#read('');
    });
  }

  #read(text: string): void {
    this.#unread += text;
    const end = this.#unread.indexOf('\n');
    if (end < 0 || !this.#waiting) return;
    const line = this.#unread.slice(0, end);
    this.#unread = this.#unread.slice(end + 1);
    this.#waiting(line);
  }

  #end(how: string): void {
    this.#gone ??= new PeerError(`${this.name} ${how}${this.#errors ? `\n${this.#errors}` : ''}`);
    this.#waiting?.(this.#gone);
  }
}
