/**
 * HTTP of the inference worker: POST /generate, POST /inspect, GET /health, behind the worker token; drains on request.
 * Knows sockets and errors; what happens to a request is in generate.ts and inspect.ts.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { ApiError, invalidApiKey, methodNotAllowed, serverError, unknownUrl } from '../../src/errors.ts';
import type { WorkerHealth } from '../../src/inference/protocol.ts';
import { AnsweredError, type GenerateDeps, handleGenerate } from './generate.ts';
import { handleInspect, type Inspector } from './inspect.ts';
import { toWorkerError } from './request.ts';

/** For the error event of generations that are ended to reach their readers. */
const LAST_WORDS_MILLISECONDS = 1_000;

export interface InferenceServerDeps extends Omit<GenerateDeps, 'draining' | 'deadline'> {
  token: string;
  /** Absent: this worker does not look into files. */
  inspector?: Inspector;
  log: { warn(fields: object, message: string): void; error(fields: object, message: string): void };
}

export class InferenceServer {
  readonly #deps: InferenceServerDeps;
  readonly #tokenDigest: Buffer;
  readonly #server: Server;
  readonly #open = new Set<ServerResponse>();
  readonly #deadline = new AbortController();
  #draining = false;

  constructor(deps: InferenceServerDeps) {
    this.#deps = deps;
    this.#tokenDigest = sha256(`Bearer ${deps.token}`);
    this.#server = createServer(
      { headersTimeout: 10_000, requestTimeout: 60_000, keepAliveTimeout: 30_000, maxHeaderSize: 16_384 },
      (incoming, response) => void this.#answer(incoming, response),
    );
  }

  /** Listens and returns the port. */
  async listen(host: string, port: number): Promise<number> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(port, host, resolve);
    });
    return (this.#server.address() as AddressInfo).port;
  }

  get health(): WorkerHealth {
    const { engine, baseModel, admission } = this.#deps;
    const { running, adapters } = engine.stats;
    return {
      state: this.#draining ? 'draining' : 'ready',
      base_model: baseModel,
      device: engine.info.device,
      running,
      waiting: admission.waiting,
      adapters,
    };
  }

  /**
   * Refuses new work with 503, waits until the running requests have ended or `milliseconds` have passed, ends the
   * rest with an error event and closes. Returns how many did not finish.
   */
  async drain(milliseconds: number): Promise<number> {
    this.#draining = true;
    await this.#allClosed(milliseconds);
    const unfinished = this.#open.size;
    this.#deadline.abort();
    await this.#allClosed(LAST_WORDS_MILLISECONDS);
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
    return unfinished;
  }

  /** Resolves when every response open now is closed, or after `milliseconds`. */
  async #allClosed(milliseconds: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, milliseconds);
    });
    const closing = [...this.#open].map(
      (response) => new Promise((resolve) => response.once('close', resolve)),
    );
    await Promise.race([Promise.all(closing), late]);
    clearTimeout(timer);
  }

  async #answer(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    this.#open.add(response);
    response.once('close', () => this.#open.delete(response));
    response.on('error', () => undefined); // a client that left; `close` follows and does the work
    try {
      await this.#route(incoming, response);
    } catch (error) {
      this.#answerError(error, incoming, response);
    }
  }

  async #route(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = '', url = '' } = incoming;
    if (!timingSafeEqual(sha256(incoming.headers.authorization ?? ''), this.#tokenDigest))
      throw invalidApiKey();
    if (url === '/health') {
      if (method !== 'GET') throw methodNotAllowed(method, url);
      sendJson(response, 200, this.health);
      return;
    }
    const { inspector, baseModel } = this.#deps;
    if (url !== '/generate' && !(inspector && url === '/inspect')) throw unknownUrl(method, url);
    if (method !== 'POST') throw methodNotAllowed(method, url);
    if (inspector && url === '/inspect') {
      await handleInspect({ inspector, baseModel, draining: () => this.#draining }, incoming, response);
      return;
    }
    const drain = { draining: () => this.#draining, deadline: this.#deadline.signal };
    await handleGenerate({ ...this.#deps, ...drain }, incoming, response);
  }

  #answerError(error: unknown, incoming: IncomingMessage, response: ServerResponse): void {
    if (response.destroyed) return; // the client has gone
    if (response.headersSent) {
      this.#deps.log.error({ error }, 'a response broke off');
      response.destroy();
      return;
    }
    if (!incoming.complete) response.shouldKeepAlive = false; // the rest of the body is not read
    if (error instanceof AnsweredError) {
      sendJson(response, error.error.status, error.error);
    } else if (error instanceof ApiError) {
      sendJson(response, error.status, toWorkerError(error), error.headers);
    } else {
      this.#deps.log.error({ error }, 'a request failed unexpectedly');
      sendJson(response, 500, toWorkerError(serverError('worker')));
    }
  }
}

function sendJson(
  response: ServerResponse,
  status: number,
  body: object,
  headers: Record<string, string> = {},
): void {
  const text = JSON.stringify(body);
  const length = Buffer.byteLength(text);
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': length, ...headers });
  response.end(text);
}

function sha256(value: string): Buffer {
  return createHash('sha256').update(value).digest();
}
