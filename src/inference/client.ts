/**
 * The API's end of the wire to an inference worker (protocol.ts): opens a generation and reads its events as they come.
 * One worker, one attempt; who is asked next when it fails is the caller's business.
 */
import type { GenerateEvent, GenerateRequest, WorkerError } from './protocol.ts';

/** The worker answered, with an error and no token. */
export class WorkerRefused extends Error {
  override name = 'WorkerRefused';
  readonly error: WorkerError;

  constructor(error: WorkerError) {
    super(error.message);
    this.error = error;
  }
}

/** The worker could not be reached, broke off, or did not speak the protocol. */
export class WorkerLost extends Error {
  override name = 'WorkerLost';
  /** It had the request when it was lost. */
  readonly underWay: boolean;
  /** It said nothing for so long that the connection was given up; it may well be alive. */
  readonly isSlow: boolean;

  constructor(message: string, options: ErrorOptions & { underWay?: boolean } = {}) {
    super(message, options);
    this.underWay = options.underWay ?? false;
    this.isSlow = SILENT.includes(codeOf(options.cause));
  }
}

/** A connection that never came about: the worker has not seen the request. */
const NOT_CONNECTED = [
  ...['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH'],
  ...['ETIMEDOUT', 'UND_ERR_CONNECT_TIMEOUT'],
];

/** A connection on which nothing came for too long, before or after the head of the answer. */
const SILENT = ['UND_ERR_HEADERS_TIMEOUT', 'UND_ERR_BODY_TIMEOUT'];

/** fetch's reason is the cause of the error that it throws. */
const codeOf = (error: unknown): string =>
  String((error as { cause?: { code?: unknown } } | undefined)?.cause?.code);

const wasConnected = (error: unknown): boolean => !NOT_CONNECTED.includes(codeOf(error));

/**
 * Asks the worker at `url`; resolves when it has begun. The events end with `done` or `error`; leaving the loop (or
 * aborting `signal`) closes the connection, which cancels the generation. Reading slowly slows the worker down.
 * @throws WorkerRefused, WorkerLost; the signal's reason when it was aborted.
 */
export async function openGeneration(
  url: string,
  token: string,
  request: GenerateRequest,
  signal: AbortSignal,
): Promise<AsyncGenerator<GenerateEvent, void>> {
  const response = await ask(new URL('/generate', url), token, request, signal);
  if (response.status !== 200 || !response.body) throw await refusal(response);
  return readEvents(response.body, signal);
}

async function ask(
  url: URL,
  token: string,
  request: GenerateRequest,
  signal: AbortSignal,
): Promise<Response> {
  try {
    return await fetch(url, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify(request),
      redirect: 'error',
      signal,
    });
  } catch (error) {
    signal.throwIfAborted();
    const underWay = wasConnected(error);
    const what = underWay ? 'the worker broke off' : 'the worker cannot be reached';
    throw new WorkerLost(what, { cause: error, underWay });
  }
}

async function refusal(response: Response): Promise<WorkerRefused | WorkerLost> {
  try {
    const error = (await response.json()) as Partial<WorkerError>;
    if (
      typeof error.status === 'number' &&
      typeof error.message === 'string' &&
      typeof error.type === 'string'
    ) {
      return new WorkerRefused({ code: null, param: null, ...error } as WorkerError);
    }
  } catch (error) {
    return new WorkerLost(`the worker answered ${response.status} without a reason`, { cause: error });
  }
  return new WorkerLost(`the worker answered ${response.status} without a reason`);
}

async function* readEvents(
  body: ReadableStream<Uint8Array>,
  signal: AbortSignal,
): AsyncGenerator<GenerateEvent, void> {
  const decoder = new TextDecoder();
  let rest = '';
  try {
    for await (const chunk of body) {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        if (line === '') continue;
        const event = JSON.parse(line) as GenerateEvent;
        yield event;
        if (event.type === 'done' || event.type === 'error') return;
      }
    }
  } catch (error) {
    signal.throwIfAborted();
    throw new WorkerLost('the worker broke off', { cause: error, underWay: true });
  }
  throw new WorkerLost('the worker broke off', { underWay: true });
}
