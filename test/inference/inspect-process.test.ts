/** POST /inspect of the real worker process: behind the token, beside the engine, over its own storage. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { workers } from '../../src/db/schema.ts';
import { WorkerRefused } from '../../src/inference/client.ts';
import { type InspectRequest, requestInspection } from '../../src/inference/inspection.ts';
import { openDiskStorage } from '../../src/storage/disk.ts';
import { useDatabase } from '../helpers/database.ts';
import { PROGRAM_FLAGS, plainEnvironment } from '../helpers/programs.ts';
import { TinyWorld } from './tiny-worker.ts';

const TOKEN = 'the-token-of-this-process';
const MAIN = path.join(import.meta.dirname, '..', '..', 'workers', 'inference', 'main.ts');
const holder = useDatabase();
let world: TinyWorld;
let child: ChildProcess;
let url: string;

const pair = JSON.stringify({
  input: { messages: [{ role: 'user', content: 'Well?' }] },
  preferred_output: [{ role: 'assistant', content: 'Yes.' }],
  non_preferred_output: [{ role: 'assistant', content: 'No.' }],
});
const request: InspectRequest = {
  ...{
    owner: 'proj_a',
    base_model: 'tiny',
    method: 'dpo',
    max_length: 64,
    overlong: 'truncate',
    seconds: 10,
    rows: null,
  },
  files: [{ param: 'training_file', id: 'file-a', storage_key: 'pairs', min_examples: 1 }],
  training: { adapter: { r: 4, target_modules: ['q_proj', 'v_proj'] }, dtype: 'f32', pack_tokens: 128 },
};
const ask = (change: Partial<InspectRequest> = {}, token = TOKEN) =>
  requestInspection(url, token, { ...request, ...change }, AbortSignal.timeout(60_000));

beforeAll(async () => {
  world = await TinyWorld.create();
  const home = path.join(world.home, 'state');
  await (await openDiskStorage(path.join(home, 'storage'))).put('pairs', Buffer.from(`${pair}\n${pair}\n`));
  child = spawn(process.execPath, [...PROGRAM_FLAGS, MAIN], {
    env: {
      ...plainEnvironment(),
      DATABASE_URL: holder.database.url,
      LATHE_HOME: home,
      LATHE_BASE_MODELS: `tiny=${world.modelDirectory}`,
      LATHE_WORKER_TOKEN: TOKEN,
    },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  for (let i = 0; i < 1_200; i++) {
    const [row] = await holder.database.db.select().from(workers);
    if (row?.state === 'ready') {
      url = row.url!;
      return;
    }
    await sleep(50);
  }
  throw new Error('the worker never was ready');
}, 90_000);
afterAll(async () => {
  child?.kill('SIGKILL');
  await world?.remove();
});

it('counts, shows rows, estimates memory, and refuses what is not for it', async () => {
  const { files, memory } = await ask();
  expect(files).toMatchObject([{ format: 'preference', complete: true, examples: 2, errors_total: 0 }]);
  // q and v of two layers: 4·(64 + 64) + 4·(64 + 32) each
  expect(memory!.trainable_parameters).toBe(2 * (4 * 128 + 4 * 96));
  const { rows } = await ask({ rows: { line: 2, count: 1, max_tokens: 1000 } });
  expect(rows.map(({ line, sequences }) => [line, sequences.length])).toEqual([[2, 2]]);
  await expect(ask({ base_model: 'other' })).rejects.toMatchObject({ error: { code: 'model_not_found' } });
  await expect(ask({}, 'another-token-altogether')).rejects.toBeInstanceOf(WorkerRefused);
  await expect(ask({ max_length: 0 })).rejects.toMatchObject({ error: { status: 400, param: 'max_length' } });
}, 60_000);

it('ends in order while its inspector is idle', async () => {
  child.kill('SIGTERM');
  expect(await once(child, 'exit')).toEqual([0, null]);
}, 60_000);
