/**
 * An inference worker that says what a test tells it to, speaking protocol.ts over a real port. It has no model.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { eq } from 'drizzle-orm';
import type { Database } from '../../src/db/client.ts';
import { workers } from '../../src/db/schema.ts';
import { newId } from '../../src/ids.ts';
import type {
  GenerateEvent,
  GenerateRequest,
  WorkerError,
  WorkerHealth,
} from '../../src/inference/protocol.ts';
import { BASE_MODEL, WORKER_TOKEN } from '../helpers/app.ts';

/** What one request gets: events with pauses (numbers, ms), an error before any token, or a broken connection. */
export type Script = (GenerateEvent | number | 'break')[] | WorkerError;

export class ScriptedWorker {
  /** Bodies of the requests, as they came. */
  readonly requests: GenerateRequest[] = [];
  /** Requests whose client left before the end. */
  left = 0;
  /** Bytes the reader has not taken yet, of the latest answer. */
  unread = 0;
  /** What GET /health answers. */
  health: WorkerHealth = {
    ...{ state: 'ready', base_model: BASE_MODEL, device: 'none' },
    ...{ running: 0, waiting: 0, adapters: [] },
  };
  script: Script | ((request: GenerateRequest) => Script) = [];
  readonly id = newId('worker_');
  readonly #server: Server;
  readonly #database: Database;

  private constructor(database: Database) {
    this.#database = database;
    this.#server = createServer((request, response) => void this.#answer(request, response));
  }

  /** Listens and registers as a ready worker for the base model. */
  static async start(database: Database, baseModel = BASE_MODEL): Promise<ScriptedWorker> {
    const worker = new ScriptedWorker(database);
    worker.#server.listen(0, '127.0.0.1');
    await once(worker.#server, 'listening');
    await database.db.insert(workers).values({
      id: worker.id,
      kind: 'inference',
      url: worker.url,
      baseModel,
      device: 'none',
      host: 'localhost',
      pid: process.pid,
      state: 'ready',
      heartbeatAt: new Date(Date.now() + 3_600_000), // alive however long the tests take
    });
    return worker;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Breaks off everything that is under way, as a crash does. */
  breakAll(): void {
    this.#server.closeAllConnections();
  }

  async stop(): Promise<void> {
    await this.#database.db.delete(workers).where(eq(workers.id, this.id));
    this.#server.closeAllConnections();
    this.#server.close();
  }

  async #answer(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    let ended = false;
    response.on('close', () => {
      if (!ended) this.left += 1;
    });
    if (incoming.headers.authorization !== `Bearer ${WORKER_TOKEN}`) {
      response.writeHead(401).end();
      return;
    }
    if (incoming.url === '/health') {
      ended = true;
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(this.health));
      return;
    }
    const request = JSON.parse(Buffer.concat(await incoming.toArray()).toString()) as GenerateRequest;
    this.requests.push(request);
    const script = typeof this.script === 'function' ? this.script(request) : this.script;
    if (!Array.isArray(script)) {
      ended = true;
      response.writeHead(script.status, { 'content-type': 'application/json' }).end(JSON.stringify(script));
      return;
    }
    for (const step of script) {
      if (response.destroyed) return;
      if (step === 'break') {
        ended = true;
        response.destroy();
      } else if (typeof step === 'number') await new Promise((resolve) => setTimeout(resolve, step));
      else {
        if (!response.headersSent) response.writeHead(200, { 'content-type': 'application/x-ndjson' });
        if (!response.write(`${JSON.stringify(step)}\n`)) {
          this.unread = response.writableLength;
          await taken(response);
        }
      }
    }
    ended = true;
    response.end();
  }
}

/** Resolves when the reader has taken what was written, or is gone. */
function taken(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done).off('close', done);
      resolve();
    };
    response.on('drain', done).on('close', done);
  });
}

/** The events of an answer whose tokens are `texts`, each with its log probability. */
export function answerOf(
  texts: string[],
  options: { n?: number; prompt?: number; cached?: number } = {},
): GenerateEvent[] {
  const { n = 1, prompt = 7, cached = 0 } = options;
  const choices = Array.from({ length: n }, (_, index) => index);
  return [
    { type: 'start', prompt_tokens: prompt, cached_tokens: cached },
    ...texts.flatMap((text) =>
      choices.map(
        (index): GenerateEvent => ({
          type: 'delta',
          index,
          text,
          tokens: [
            {
              token: text,
              bytes: [...Buffer.from(text)],
              logprob: -0.5,
              top_logprobs: [{ token: text, bytes: [...Buffer.from(text)], logprob: -0.5 }],
            },
          ],
        }),
      ),
    ),
    ...choices.map((index): GenerateEvent => ({ type: 'finish', index, reason: 'stop' })),
    { type: 'done', prompt_tokens: prompt, completion_tokens: texts.length * n, cached_tokens: cached },
  ];
}
