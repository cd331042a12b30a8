// The service with a scripted worker, a batch runner when a test starts one, and the SDK's client: what the tests of
// batches start from.
import OpenAI from 'openai';
import { afterAll, afterEach, beforeAll, expect, vi } from 'vitest';
import { type BatchRunner, startBatchRunner } from '../../src/domain/batches/runner.ts';
import { innerRequests } from '../../src/http/inner-requests.ts';
import { BASE_MODEL, useApp } from '../helpers/app.ts';
import { answerOf, ScriptedWorker } from './scripted-worker.ts';

export const ENDPOINT = '/v1/chat/completions';

/** A line of an input file. */
export const request = (id: string, content: string, fields: object = {}, line: object = {}) =>
  JSON.stringify({
    custom_id: id,
    method: 'POST',
    url: ENDPOINT,
    body: { model: BASE_MODEL, messages: [{ role: 'user', content }], ...fields },
    ...line,
  });

/** Answers with the last message's own text. */
export const echo = (requestBody: { messages: { content: string | null }[] }) =>
  answerOf([String(requestBody.messages.at(-1)?.content)]);

/** For a test file: registers the hooks; worker and client are in `there` from beforeAll on. */
export function useBatches() {
  const t = useApp({ pollMilliseconds: 20, leaseSeconds: 6, heartbeatSeconds: 1 });
  const there = {} as { worker: ScriptedWorker; client: OpenAI };
  let runners: BatchRunner[] = [];
  beforeAll(async () => {
    there.client = new OpenAI({ apiKey: t.alice.key, baseURL: await t.serve() });
    there.worker = await ScriptedWorker.start(t.database);
  });
  afterEach(async () => {
    await Promise.all(runners.map((runner) => runner.stop()));
    runners = [];
    there.worker.health.waiting = 0;
  });
  afterAll(() => there.worker?.stop());

  const startRunner = () => {
    const runner = startBatchRunner({ ...t, ask: innerRequests(t, { limited: false }) });
    runners.push(runner);
    return runner;
  };
  const upload = async (text: string) =>
    (await there.client.files.create({ file: new File([text], 'in.jsonl'), purpose: 'batch' })).id;
  const createBatch = async (lines: string[], fields: object = {}) =>
    there.client.batches.create({
      input_file_id: await upload(lines.join('\n')),
      endpoint: ENDPOINT,
      completion_window: '24h',
      ...fields,
    });
  /** Waits until a runner has begun with the batch. */
  const begun = (id: string) =>
    vi.waitFor(
      async () => expect((await there.client.batches.retrieve(id)).status).toBe('in_progress'),
      10_000,
    );
  /** Waits for the batch to end. */
  const ended = (id: string) =>
    vi.waitFor(
      async () => {
        const batch = await there.client.batches.retrieve(id);
        if (!['completed', 'failed', 'expired', 'cancelled'].includes(batch.status))
          throw new Error(batch.status);
        return batch;
      },
      { timeout: 15_000, interval: 50 },
    );
  const linesOf = async (file: string | null | undefined) =>
    file
      ? (await (await there.client.files.content(file)).text())
          .trimEnd()
          .split('\n')
          .map((line) => JSON.parse(line))
      : [];
  return { t, there, startRunner, upload, createBatch, begun, ended, linesOf };
}
