/**
 * POST /inspect: what a data file holds, worked out in a thread of its own, so that a large file delays neither prompts
 * nor the engine. One at a time, projects in turn; knows the thread and its deadline, not how files are read.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Worker } from 'node:worker_threads';
import { z } from 'zod';
import type { Config } from '../../src/config.ts';
import { badRequest, modelNotFound, overloaded, payloadTooLarge } from '../../src/errors.ts';
import type { InspectAnswer, InspectRequest } from '../../src/inference/inspection.ts';
import { FairTurns } from './fair-turns.ts';
import type { FromInspectThread, InspectThreadData } from './inspect-thread.ts';

const BODY_BYTES_MAX = 65_536;
/** Inspections that wait or run, in all and of one project. */
const TURNS = { most: 32, mostOfOwner: 8 };
/** Beyond the time a request gives itself: for the thread's start and the row that is being read. */
const GRACE_MILLISECONDS = 20_000;
const SECONDS_MAX = 120;

const name = z.string().min(1).max(1024);
const requestSchema = z.strictObject({
  base_model: name,
  owner: name,
  method: z.enum(['supervised', 'dpo']),
  max_length: z.int().min(1),
  overlong: z.enum(['truncate', 'drop', 'error']),
  files: z
    .array(
      z.strictObject({
        param: z.enum(['training_file', 'validation_file']),
        id: name,
        storage_key: name,
        min_examples: z.int().min(0),
      }),
    )
    .min(1)
    .max(2),
  seconds: z.number().min(0).max(SECONDS_MAX),
  rows: z
    .strictObject({ line: z.int().min(1), count: z.int().min(1), max_tokens: z.int().min(1) })
    .nullable(),
  training: z
    .strictObject({
      adapter: z
        .strictObject({
          r: z.int().min(1),
          target_modules: z.union([z.literal('all-linear'), z.array(name).max(1024)]),
        })
        .nullable(),
      dtype: z.enum(['bf16', 'f32']),
      pack_tokens: z.int().min(1),
    })
    .nullable(),
});

export class Inspector {
  readonly #data: InspectThreadData;
  readonly #turns = new FairTurns(TURNS);
  /** Started by the first inspection, and again after it died or was given up. */
  #thread: Worker | null = null;

  constructor(modelDirectory: string, storage: Config['storage']) {
    this.#data = { modelDirectory, storage };
  }

  /**
   * Works out one answer. `isGone` is asked when its turn comes: nobody waits for an answer to a client that left.
   * @throws ApiError 503 when too many wait or the thread does not answer in time, 400 for what cannot be read so
   */
  inspect(request: InspectRequest, isGone: () => boolean = () => false): Promise<InspectAnswer> {
    const done = this.#turns.take(request.owner, async () =>
      isGone() ? { files: [], rows: [], memory: null } : this.#run(request),
    );
    if (!done) throw overloaded('Too many files are being inspected. Try again.', 5);
    return done;
  }

  async close(): Promise<void> {
    const thread = this.#thread;
    this.#thread = null;
    await thread?.terminate();
  }

  #start(): Worker {
    return new Worker(new URL('./inspect-thread.ts', import.meta.url), {
      workerData: this.#data,
      resourceLimits: { maxOldGenerationSizeMb: 2048 },
    });
  }

  async #run(request: InspectRequest): Promise<InspectAnswer> {
    const thread = this.#thread ?? this.#start();
    this.#thread = thread;
    const milliseconds = 1000 * request.seconds + GRACE_MILLISECONDS;
    const message = await new Promise<FromInspectThread>((resolve, reject) => {
      const late = () => reject(overloaded('The inspection did not end in time. Please try again.', 5));
      const timer = setTimeout(late, milliseconds);
      const settle = (end: () => void) => {
        clearTimeout(timer);
        thread.off('message', onMessage).off('error', onError).off('exit', onExit);
        end();
      };
      const onMessage = (answer: FromInspectThread) => settle(() => resolve(answer));
      const onError = (error: Error) => settle(() => reject(error));
      const onExit = () => settle(() => reject(overloaded('The inspection was ended. Please try again.', 5)));
      thread.on('message', onMessage).on('error', onError).on('exit', onExit);
      thread.postMessage(request);
    }).catch((error: unknown) => {
      if (this.#thread === thread) this.#thread = null;
      void thread.terminate();
      throw error;
    });
    if ('answer' in message) return message.answer;
    if ('invalid' in message) throw badRequest(message.invalid, 'model', 'invalid_value');
    throw new Error(message.failed);
  }
}

/** Answers one request. @throws ApiError before anything is written */
export async function handleInspect(
  { inspector, baseModel, draining }: { inspector: Inspector; baseModel: string; draining: () => boolean },
  incoming: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  if (draining()) throw overloaded('This worker is shutting down.', 1);
  const request = parse(await readBody(incoming));
  if (request.base_model !== baseModel) throw modelNotFound(request.base_model);
  const text = JSON.stringify(await inspector.inspect(request, () => response.destroyed));
  if (response.destroyed) return;
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
  response.end(text);
}

async function readBody(incoming: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > BODY_BYTES_MAX) throw payloadTooLarge(BODY_BYTES_MAX);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}

function parse(body: string): InspectRequest {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    throw badRequest('The body is not valid JSON.');
  }
  const parsed = requestSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  const param = issue.path.map(String).join('.') || null;
  throw badRequest(`Invalid '${param ?? 'body'}': ${issue.message}`, param, 'invalid_value');
}
