/** LATHE_QUANTIZATION=int8 from the setting to the user: a worker process on the shipped model behind the API. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ServingRuns } from '../../bench/serving-runs.ts';
import { PROJECT_ROOT } from '../../src/config.ts';
import { workers } from '../../src/db/schema.ts';
import { openDevice } from '../../workers/engine/device.ts';
import { BASE_MODEL, useApp, WORKER_TOKEN } from '../helpers/app.ts';
import { PROGRAM_FLAGS, plainEnvironment } from '../helpers/programs.ts';
import { TinyWorld } from './tiny-worker.ts';

const SHIPPED = path.join(PROJECT_ROOT, 'models', 'lathe-tiny');
const CONTENT = 'Where does the river begin?';
const t = useApp();
let world: TinyWorld;

beforeAll(async () => {
  world = await TinyWorld.shipped();
});
afterAll(() => world.remove());

function startWorker() {
  const main = path.join(PROJECT_ROOT, 'workers', 'inference', 'main.ts');
  const child = spawn(process.execPath, [...PROGRAM_FLAGS, main], {
    env: {
      ...plainEnvironment(),
      DATABASE_URL: t.database.url,
      LATHE_HOME: path.join(world.home, 'state'),
      LATHE_BASE_MODELS: `${BASE_MODEL}=${SHIPPED}`,
      LATHE_WORKER_TOKEN: WORKER_TOKEN,
      LATHE_QUANTIZATION: 'int8',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.on('data', (chunk) => {
    output += chunk;
  });
  return { child, output: () => output };
}

/** The row of the worker with this process id, once it is ready. */
async function readyRow(pid: number, output: () => string) {
  for (const end = Date.now() + 30_000; Date.now() < end; await sleep(50)) {
    const [row] = await t.database.db.select().from(workers).where(eq(workers.pid, pid));
    if (row?.state === 'ready') return row;
  }
  throw new Error(`the worker never was ready: ${output()}`);
}

/** Log-probabilities of the first token of an answer to CONTENT, by the engine itself. */
function firstToken(quantization: 'int8' | null): Float64Array {
  const runs = new ServingRuns(SHIPPED, openDevice({ kind: 'cpu' }), 64, quantization);
  const logits = runs.logits(world.promptIds(CONTENT));
  runs.dispose();
  const peak = logits.reduce((a, b) => Math.max(a, b));
  const mass = Math.log(logits.reduce((sum, x) => sum + Math.exp(x - peak), 0));
  return Float64Array.from(logits, (x) => x - peak - mass);
}

const listed = async () =>
  (await t.call('GET', '/v1/models')).json.data.find(({ id }: { id: string }) => id === BASE_MODEL);

it('serves with int8 weights and tells users so', { timeout: 60_000 }, async () => {
  expect(await listed()).not.toHaveProperty('quantization'); // nobody serves it yet
  const { child, output } = startWorker();
  try {
    const row = await readyRow(child.pid!, output);
    expect(row).toMatchObject({
      quantization: 'int8',
      device: expect.stringMatching(/^cpu .*, int8 weights$/),
    });
    expect((await listed()).quantization).toBe('int8');
    expect((await t.call('GET', `/v1/models/${BASE_MODEL}`)).json.quantization).toBe('int8');

    const request = { model: BASE_MODEL, messages: [{ role: 'user', content: CONTENT }], temperature: 0 };
    const { status, json } = await t.call('POST', '/v1/chat/completions', {
      json: { ...request, max_tokens: 12, logprobs: true, top_logprobs: 5 },
    });
    expect(status).toBe(200);
    const [choice] = json.choices;
    expect(choice.message.content.length).toBeGreaterThan(0);
    const [int8, bf16] = [firstToken('int8'), firstToken(null)];
    const best = Array.from(int8.keys()).sort((a, b) => int8[b]! - int8[a]!);
    const found = choice.logprobs.content[0].top_logprobs as { bytes: number[]; logprob: number }[];
    expect(found.map(({ bytes }) => bytes)).toEqual(
      best.slice(0, 5).map((id) => [...world.tokenizer.tokenBytes(id)]),
    );
    const away = (from: Float64Array) =>
      Math.max(...found.map(({ logprob }, i) => Math.abs(logprob - from[best[i]!]!)));
    // The same integers give the same logits; what is left is the log softmax in f32 instead of f64.
    expect(away(int8)).toBeLessThan(1e-5);
    expect(away(bf16)).toBeGreaterThan(1e-3); // so it was not served in bf16
  } finally {
    child.kill('SIGTERM');
    await once(child, 'exit');
  }
  expect(await listed()).not.toHaveProperty('quantization');
});
