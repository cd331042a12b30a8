// A model trained here on a few rows, served by a real worker, and its adapter as the download gives it: what the tests
// of adapters start from. A second base model is there for operations only.
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, expect, vi } from 'vitest';
import { workers } from '../../src/db/schema.ts';
import { supervise } from '../../workers/trainer/supervisor.ts';
import { caseFolder } from '../golden/read.ts';
import { TEN_ROWS, type TestApp, WORKER_TOKEN } from '../helpers/app.ts';
import { PROGRAM_FLAGS, plainEnvironment } from '../helpers/programs.ts';
import { TinyWorld } from '../inference/tiny-worker.ts';
import { unpack } from './adapter-files.ts';
import { addBase, bytesOf, CONFIG, type FormFile, serveOperations, WEIGHTS } from './adapter-service.ts';

const MAIN = path.join(import.meta.dirname, '../../workers/inference/main.ts');

export function startWorker(t: TestApp, world: TinyWorld, log: 'ignore' | 'pipe' = 'ignore'): ChildProcess {
  return spawn(process.execPath, [...PROGRAM_FLAGS, MAIN], {
    stdio: ['ignore', log, 'inherit'],
    env: {
      ...plainEnvironment(),
      ...{ DATABASE_URL: t.database.url, LATHE_HOME: path.join(world.home, 'state') },
      ...{ LATHE_BASE_MODELS: `tiny=${world.modelDirectory}`, LATHE_WORKER_TOKEN: WORKER_TOKEN },
      ...{
        LATHE_STORAGE_DIR: t.storageDir,
        LATHE_POLL_MS: '50',
        LATHE_THREADS: '1',
        LATHE_DRAIN_SECONDS: '1',
      },
    },
  });
}

/** Trains on ten rows until the model says something of its own. */
async function train(t: TestApp, world: TinyWorld): Promise<string> {
  const training_file = await t.upload(TEN_ROWS);
  const json = {
    ...{ model: 'tiny', training_file, suffix: 'mine', seed: 3 },
    method: { type: 'supervised', supervised: { hyperparameters: { n_epochs: 6, batch_size: 2 } } },
    trainer: { learning_rate: 0.02 },
  };
  const job = await t.call('POST', '/v1/fine_tuning/jobs', { json });
  expect(job.status, job.text).toBe(200);
  const config = { ...t.config, home: world.home, scratchDir: path.join(world.home, 'scratch') };
  const device = { kind: 'cpu' as const, threads: 1 };
  await supervise({ ...t, config, device, once: true, drain: new AbortController().signal });
  const done = await t.call('GET', `/v1/fine_tuning/jobs/${job.json.id}`);
  expect(done.json.error).toBeNull();
  return done.json.fine_tuned_model;
}

async function greedy(t: TestApp, model: string): Promise<string> {
  const json = {
    model,
    messages: [{ role: 'user', content: 'Question 3?' }],
    temperature: 0,
    max_tokens: 24,
  };
  const answer = await t.call('POST', '/v1/chat/completions', { json });
  expect(answer.status, answer.text).toBe(200);
  return answer.json.choices[0].message.content;
}

/** For a test file: registers the hooks; what `there` names is there from beforeAll on. */
export function useTrainedAdapter(t: TestApp) {
  /** The id of the model trained here, and the folder that its download unpacks to. */
  const there = {} as { world: TinyWorld; trained: string; adapter: ReturnType<typeof unpack> };
  let worker: ChildProcess | undefined;
  let golden: { stop(): Promise<void> } | undefined;
  beforeAll(async () => {
    there.world = await TinyWorld.create();
    const { modelDirectory, home } = there.world;
    await addBase(t, 'tiny', modelDirectory);
    await addBase(t, 'golden', caseFolder('qwen3-tied'));
    there.trained = await train(t, there.world);
    worker = startWorker(t, there.world);
    golden = await serveOperations(t, 'golden', caseFolder('qwen3-tied'), home);
    const ready = async () =>
      (await t.database.db.select().from(workers).where(eq(workers.baseModel, 'tiny'))).map(
        ({ state }) => state,
      );
    await vi.waitFor(async () => expect(await ready()).toEqual(['ready']), { timeout: 60_000, interval: 50 });
    there.adapter = unpack((await bytesOf(t, `/v1/fine_tuning/adapters/${there.trained}`)).bytes);
  });
  afterAll(async () => {
    await golden?.stop();
    worker?.kill('SIGKILL');
    await there.world?.remove();
  });
  return {
    there,
    /** What a model answers to one fixed question. */
    greedy: (model: string) => greedy(t, model),
    /** The two files of the adapter, as a form sends them. */
    both: (): FormFile[] => [CONFIG, WEIGHTS].map((name) => [name, there.adapter.read(name)]),
  };
}
