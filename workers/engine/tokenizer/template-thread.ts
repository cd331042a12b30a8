/**
 * Renders a Jinja template synchronously, but in another thread, under a deadline and a heap limit: the interpreter has
 * no fuel of its own, and a template from a model folder can loop for ever. The compiled template lives with the thread.
 */
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from 'node:worker_threads';
import type { RenderAnswer } from './template-worker.ts';

/** The template cannot be used (`invalid_template`), refused its input (`template_rejects`) or ran too long. */
export class TemplateError extends Error {
  override name = 'TemplateError';
  readonly code: 'invalid_template' | 'template_rejects' | 'template_timeout';

  constructor(code: TemplateError['code'], message: string) {
    super(message);
    this.code = code;
  }
}

interface Running {
  worker: Worker;
  port: MessagePort;
  answered: Int32Array<SharedArrayBuffer>;
  received: number;
}

/** Starting a thread can take seconds on a busy machine; rendering one conversation takes well under a millisecond. */
const startDeadlineMs = 30_000;
const heapLimitMb = 64;

export class TemplateThread {
  private readonly source: string;
  private readonly deadlineMs: number;
  private running: Running | null = null;

  constructor(source: string, deadlineMs: number) {
    this.source = source;
    this.deadlineMs = deadlineMs;
  }

  /**
   * Renders the template once per context, in order. Blocks the calling thread.
   * @throws TemplateError: does not parse, raised an exception, or used more than the deadline per batch.
   */
  render(contexts: readonly Record<string, unknown>[]): string[] {
    const running = this.running ?? this.start();
    running.port.postMessage(contexts);
    const answer = this.receive(running, this.deadlineMs);
    if ('error' in answer)
      throw new TemplateError('template_rejects', `the chat template refuses this: ${answer.error}`);
    return answer.texts;
  }

  /** Ends the thread; the next render starts another. */
  dispose(): void {
    this.running?.port.close();
    void this.running?.worker.terminate();
    this.running = null;
  }

  private start(): Running {
    const { port1, port2 } = new MessageChannel();
    const answered = new Int32Array(new SharedArrayBuffer(4));
    const worker = new Worker(new URL('./template-worker.ts', import.meta.url), {
      workerData: { source: this.source, port: port2, answered },
      transferList: [port2],
      resourceLimits: { maxOldGenerationSizeMb: heapLimitMb },
      env: {},
      execArgv: [],
    });
    // A thread that dies (heap limit) must not take the process down; the waiting caller sees it as a timeout.
    worker.on('error', () => {});
    worker.unref();
    port1.unref();
    this.running = { worker, port: port1, answered, received: 0 };
    const answer = this.receive(this.running, startDeadlineMs);
    if ('error' in answer) {
      this.dispose();
      throw new TemplateError('invalid_template', `the chat template does not parse: ${answer.error}`);
    }
    return this.running;
  }

  private receive(running: Running, deadlineMs: number): RenderAnswer {
    Atomics.wait(running.answered, 0, running.received, deadlineMs);
    if (Atomics.load(running.answered, 0) === running.received) {
      this.dispose();
      throw new TemplateError('template_timeout', `the chat template did not finish within ${deadlineMs} ms`);
    }
    running.received++;
    const message = receiveMessageOnPort(running.port);
    if (message === undefined) throw new Error('the template thread answered without a message');
    return message.message as RenderAnswer;
  }
}
