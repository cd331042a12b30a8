/** workers/inference/main.ts as its own process: registers, serves, drains on SIGTERM, says why it cannot start. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { eq } from 'drizzle-orm';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { workers } from '../../src/db/schema.ts';
import type { GenerateRequest } from '../../src/inference/protocol.ts';
import { useDatabase } from '../helpers/database.ts';
import { PROGRAM_FLAGS, plainEnvironment } from '../helpers/programs.ts';
import { plainSampling } from './fake-model.ts';
import { readAnswer, TinyWorld } from './tiny-worker.ts';

const TOKEN = 'the-token-of-this-process';
const MAIN = path.join(import.meta.dirname, '..', '..', 'workers', 'inference', 'main.ts');
const holder = useDatabase();
const children: ChildProcess[] = [];
let world: TinyWorld;

beforeAll(async () => {
  world = await TinyWorld.create();
});
afterEach(() => {
  for (const child of children.splice(0)) if (child.exitCode === null) child.kill('SIGKILL');
});
afterAll(() => world.remove());

/** Starts the worker; `output` collects what it logs. */
function start(settings: Record<string, string> = {}) {
  const child = spawn(process.execPath, [...PROGRAM_FLAGS, MAIN], {
    env: {
      ...plainEnvironment(),
      DATABASE_URL: holder.database.url,
      LATHE_HOME: path.join(world.home, 'state'),
      LATHE_BASE_MODELS: `tiny=${world.modelDirectory}`,
      LATHE_WORKER_TOKEN: TOKEN,
      LATHE_HEARTBEAT_SECONDS: '1',
      LATHE_DRAIN_SECONDS: '20',
      ...settings,
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  let output = '';
  child.stdout!.on('data', (chunk) => {
    output += chunk;
  });
  return { child, exited: once(child, 'exit'), output: () => output };
}

async function rowWhen(state: string, output: () => string) {
  for (let i = 0; i < 600; i++) {
    const [row] = await holder.database.db.select().from(workers);
    if (row?.state === state) return row;
    await sleep(50);
  }
  throw new Error(`the worker never was ${state}: ${output()}`);
}

function generate(url: string, max_tokens: number, bias: Record<string, number> = {}): Promise<Response> {
  const request: GenerateRequest = {
    request_id: 'req_1',
    base_model: 'tiny',
    adapter: null,
    cache_owner: 'proj_a',
    messages: [{ role: 'user', content: 'Hello' }],
    tools: null,
    sampling: { ...plainSampling, max_tokens, logit_bias: bias },
  };
  const headers = { authorization: `Bearer ${TOKEN}` };
  return fetch(`${url}/generate`, { method: 'POST', headers, body: JSON.stringify(request) });
}

describe('inference worker process', { timeout: 120_000 }, () => {
  it('registers, beats, serves, and on SIGTERM finishes what runs and leaves no row', {
    timeout: 120_000,
  }, async () => {
    const { child, exited, output } = start();
    const row = await rowWhen('ready', output);
    expect(row).toMatchObject({ kind: 'inference', baseModel: 'tiny', pid: child.pid });
    expect(row.device).toMatch(/^cpu \(/);
    const { url } = row;
    expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);

    const beaten = Date.now();
    for (let at = row.heartbeatAt; at <= row.heartbeatAt; ) {
      if (Date.now() - beaten > 10_000) throw new Error('no second heartbeat');
      await sleep(50);
      const [now] = await holder.database.db.select().from(workers).where(eq(workers.id, row.id));
      at = now!.heartbeatAt;
    }

    const never = Object.fromEntries([...world.eos].map((id) => [id, -100]));
    const cache = path.join(world.home, 'state', 'cache', 'adapters');
    expect(await readdir(cache)).toEqual([expect.stringMatching(`-${child.pid}$`)]);
    const response = await generate(url!, 200, never);
    child.kill('SIGTERM');
    await rowWhen('draining', output);
    const late = await generate(url!, 5).catch(() => null);
    const answer = await readAnswer(response, 1);
    if (late) expect(late.status).toBe(503); // unless it has drained by now
    expect(answer).toMatchObject({ reasons: ['length'], completionTokens: 200, error: null });
    expect(await exited).toEqual([0, null]);
    expect(await holder.database.db.select().from(workers)).toEqual([]);
    expect(await readdir(cache)).toEqual([]);
    expect(output()).toContain('"msg":"drained"');
  });

  it('ends with code 78 and a sentence when a setting is wrong', async () => {
    const unknown = start({ LATHE_INFERENCE_MODEL: 'other' });
    expect(await unknown.exited).toEqual([78, null]);
    expect(unknown.output()).toContain(
      'LATHE_INFERENCE_MODEL=other: no such base model here (there is: tiny)',
    );
  });

  it('ends with an error, not a hang, when the model cannot be loaded', async () => {
    const broken = start({ LATHE_BASE_MODELS: `tiny=${path.join(world.home, 'storage')}` });
    expect(await broken.exited).toEqual([1, null]);
    expect(broken.output()).toMatch(/tokenizer\.json|config\.json/);
    expect(await holder.database.db.select().from(workers)).toEqual([]);
  });
});
