/**
 * API processes that are killed while they run a batch: another one ends it, every line is in the output once, and what
 * a killed one left in storage is gone. Slow: every process has to start.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { PROJECT_ROOT } from '../../src/config.ts';
import { BASE_MODEL, useApp, WORKER_TOKEN } from '../helpers/app.ts';
import { PROGRAM_FLAGS, plainEnvironment } from '../helpers/programs.ts';
import { answerOf, ScriptedWorker } from './scripted-worker.ts';

vi.setConfig({ testTimeout: 120_000 });

const LINES = 120;
const t = useApp();
let worker: ScriptedWorker;
const processes = new Set<ChildProcess>();

beforeAll(async () => {
  worker = await ScriptedWorker.start(t.database);
  worker.script = (body) => [60, ...answerOf([String(body.messages.at(-1)?.content)])];
});
afterAll(async () => {
  for (const child of processes) child.kill('SIGKILL');
  await worker?.stop();
});

function startApi(): ChildProcess {
  const child = spawn(process.execPath, [...PROGRAM_FLAGS, path.join(PROJECT_ROOT, 'src/cli.ts'), 'api'], {
    stdio: 'ignore',
    env: {
      ...plainEnvironment(),
      DATABASE_URL: t.database.url,
      PORT: '0',
      LATHE_HOME: t.storageDir,
      LATHE_STORAGE_DIR: t.storageDir,
      LATHE_WORKER_TOKEN: WORKER_TOKEN,
      LATHE_BASE_MODELS: `${BASE_MODEL}=${path.join(PROJECT_ROOT, 'models/lathe-tiny')}`,
      LATHE_LEASE_SECONDS: '3',
      LATHE_HEARTBEAT_SECONDS: '1',
      LATHE_POLL_MS: '50',
      LATHE_BATCH_CONCURRENCY: '4',
    },
  });
  processes.add(child);
  return child;
}

const batchOf = async (id: string) => (await t.call('GET', `/v1/batches/${id}`)).json;
const completed = async (id: string): Promise<number> => (await batchOf(id)).request_counts.completed;

it('loses and doubles nothing', async () => {
  const text = Array.from({ length: LINES }, (_, i) =>
    JSON.stringify({
      custom_id: `line-${i}`,
      method: 'POST',
      url: '/v1/chat/completions',
      body: { model: BASE_MODEL, messages: [{ role: 'user', content: `text ${i}` }] },
    }),
  ).join('\n');
  const input_file_id = await t.upload(text, { purpose: 'batch', filename: 'in.jsonl' });
  const json = { input_file_id, endpoint: '/v1/chat/completions', completion_window: '24h' };
  const { id } = (await t.call('POST', '/v1/batches', { json })).json;
  // As if an earlier attempt had died between storing its file and saying so.
  const stray = `projects/${t.alice.projectId}/batches/${id}/e0/output.jsonl`;
  await t.storage.put(stray, Buffer.from('half\n'));

  for (const enough of [LINES / 4, LINES / 2]) {
    const child = startApi();
    await vi.waitFor(async () => expect(await completed(id)).toBeGreaterThan(enough), {
      timeout: 40_000,
      interval: 20,
    });
    child.kill('SIGKILL');
    processes.delete(child);
    expect((await batchOf(id)).status).toBe('in_progress');
  }
  startApi();
  await vi.waitFor(async () => expect((await batchOf(id)).status).toBe('completed'), {
    timeout: 60_000,
    interval: 50,
  });

  const batch = await batchOf(id);
  expect(batch.request_counts).toEqual({ total: LINES, completed: LINES, failed: 0 });
  expect(batch.error_file_id).toBeNull();
  const output = (await t.call('GET', `/v1/files/${batch.output_file_id}/content`)).text;
  const lines = output
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(lines.map((line) => [line.custom_id, line.response.body.choices[0].message.content])).toEqual(
    Array.from({ length: LINES }, (_, i) => [`line-${i}`, `text ${i}`]),
  );
  // Asked at least once each; more often only what was under way or not yet written when a process died.
  expect(worker.requests.length).toBeGreaterThanOrEqual(LINES);
  expect(worker.requests.length).toBeLessThan(LINES + 60);
  expect(batch.usage.output_tokens).toBe(LINES);
  expect(await t.storage.head(stray)).toBeNull();
  expect((await t.call('GET', '/v1/files?purpose=batch_output')).json.data).toHaveLength(1);
});
