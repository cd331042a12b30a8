/** An inference server whose engine does what the test says; what is sent to it and what comes back. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach } from 'vitest';
import type {
  GenerateEvent,
  GenerateRequest,
  WorkerError,
  WorkerHealth,
} from '../../src/inference/protocol.ts';
import { AdapterFilesError } from '../../workers/inference/adapter-files.ts';
import { Admission } from '../../workers/inference/admission.ts';
import type { EngineRequest, Generator } from '../../workers/inference/engine.ts';
import { InferenceServer, type InferenceServerDeps } from '../../workers/inference/server.ts';
import { PLAIN_SAMPLING } from '../helpers/plain-sampling.ts';

export const TOKEN = 'a-token-of-the-worker';
const servers: InferenceServer[] = [];
afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.drain(0)));
});

interface Running {
  request: EngineRequest;
  emit: (event: GenerateEvent) => void;
  cancelled: boolean;
}

/** A server whose engine does what the test says; `requests` are the generations it was asked for. */
export async function start(o: Partial<InferenceServerDeps> = {}) {
  const requests: Running[] = [];
  const rendered: string[] = [];
  const engine: Generator = {
    info: { contextLength: 50, vocabSize: 100, device: 'cpu', kvBlocks: 4, kvBytes: 1 },
    stats: { running: 0, waiting: 0, adapters: ['d'], freeBlocks: 4, preemptions: 0 },
    generate: (request, emit) => {
      const running: Running = { request, emit, cancelled: false };
      requests.push(running);
      return {
        cancel: () => {
          running.cancelled = true;
        },
      };
    },
  };
  const server = new InferenceServer({
    token: TOKEN,
    baseModel: 'base',
    baseDigest: 'b'.repeat(64),
    engine,
    prompts: {
      render: async (messages) => {
        rendered.push(messages[0]!.content!);
        return Int32Array.from({ length: messages[0]!.content!.split(' ').length }, (_, i) => i);
      },
      encode: async (text) => Int32Array.from(text.split(' '), (_, i) => i),
      toolFormat: async () => null,
    },
    grammars: {
      compile: async (source) => ({ source, thread: 0 }),
    },
    adapterFiles: {
      acquire: async () => {
        throw new AdapterFilesError('the files are gone', 30);
      },
    },
    admission: new Admission({ maxRunning: 1, maxWaiting: 1, maxWaitingTokens: 1000 }),
    stream: { maxBufferedBytes: 256 * 1024, stallMilliseconds: 30_000 },
    maxBodyBytes: 100_000,
    log: { warn: () => undefined, error: (fields) => console.error(fields) },
    ...o,
  });
  servers.push(server);
  const port = await server.listen('127.0.0.1', 0);
  const url = `http://127.0.0.1:${port}`;
  const headers = { authorization: `Bearer ${TOKEN}` };
  const post = (body: unknown, signal?: AbortSignal): Promise<Response> =>
    fetch(`${url}/generate`, {
      method: 'POST',
      headers,
      body: typeof body === 'string' ? body : JSON.stringify(body),
      ...(signal ? { signal } : {}),
    });
  const asked = async (count: number): Promise<Running> => {
    for (let i = 0; requests.length < count; i++) {
      if (i > 500) throw new Error(`the engine was asked ${requests.length} times, not ${count}`);
      await sleep(2);
    }
    return requests[count - 1]!;
  };
  const health = async (): Promise<WorkerHealth> =>
    (await (await fetch(`${url}/health`, { headers })).json()) as WorkerHealth;
  return { server, url, port, headers, post, asked, requests, rendered, health };
}

export function body(
  change: { content?: string; adapter?: boolean } & Partial<GenerateRequest['sampling']> = {},
): GenerateRequest {
  const { content = 'one two three', adapter = false, ...sampling } = change;
  return {
    request_id: 'req_1',
    base_model: 'base',
    adapter: adapter
      ? { model_id: 'ft:base:acme::12345678', digest: 'a'.repeat(64), storage_prefix: 'p', files: [] }
      : null,
    cache_owner: 'proj_a',
    messages: [{ role: 'user', content }],
    tools: null,
    sampling: { ...PLAIN_SAMPLING, max_tokens: 10, ...sampling },
  };
}

export const startEvent: GenerateEvent = { type: 'start', prompt_tokens: 3, cached_tokens: 0 };
export const doneEvent: GenerateEvent = {
  type: 'done',
  prompt_tokens: 3,
  completion_tokens: 1,
  cached_tokens: 0,
};
export const delta = (text: string): GenerateEvent => ({ type: 'delta', index: 0, text, tokens: [] });
export const errorOf = async (response: Response): Promise<WorkerError> =>
  (await response.json()) as WorkerError;
export const eventsOf = (text: string): GenerateEvent[] =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as GenerateEvent);
