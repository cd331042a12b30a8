/**
 * Real inference workers that are killed or come back with other files, behind the API: what was under way, what had been
 * streamed, and what was trained on the earlier files.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { eq } from 'drizzle-orm';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { workers } from '../../src/db/schema.ts';
import { readHealth } from '../../src/inference/health.ts';
import { useApp, WORKER_TOKEN } from '../helpers/app.ts';
import { startWorker, useTrainedAdapter } from './trained-adapter.ts';

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

const t = useApp({ workerWaitSeconds: 30 });
const { there } = useTrainedAdapter(t);
const started: ChildProcess[] = [];
afterAll(() => {
  for (const child of started) child.kill('SIGKILL');
});

const rows = () => t.database.db.select().from(workers).where(eq(workers.baseModel, 'tiny'));

/** The worker that answers now. */
async function serving() {
  return vi.waitFor(
    async () => {
      const ready = (await rows()).find(({ state }) => state === 'ready');
      if (!ready) throw new Error('no worker is ready');
      return ready;
    },
    { timeout: 60_000, interval: 20 },
  );
}

/** SIGKILL: its row stays, as after any crash, and goes as the trainers' sweep would do it. */
async function killWorker(): Promise<void> {
  const { pid, id } = await serving();
  process.kill(pid, 'SIGKILL');
  await t.database.db.update(workers).set({ state: 'dead' }).where(eq(workers.id, id));
}

/** Lets the serving worker run a sixteenth of the time from now on, so that what is under way is so for seconds. */
async function slowDown(): Promise<void> {
  const { pid } = await serving();
  const loop = `while kill -CONT ${pid}; do sleep 0.002; kill -STOP ${pid}; sleep 0.03; done`;
  started.push(spawn('bash', ['-c', loop], { stdio: 'ignore' }));
}

function startAnother() {
  const child = startWorker(t, there.world, 'pipe');
  started.push(child);
  let output = '';
  child.stdout!.on('data', (chunk) => {
    output += chunk;
  });
  return { output: () => output };
}

/** Greedy, as many tokens as asked for: no end token may come. */
const question = (i: number, extra: object = {}) => ({
  ...{ model: 'tiny', messages: [{ role: 'user', content: `Question ${i}?` }], temperature: 0 },
  logit_bias: Object.fromEntries([...there.world.eos].map((id) => [id, -100])),
  ...{ max_tokens: 200, ...extra },
});
const ask = (i: number, extra?: object) =>
  t.call('POST', '/v1/chat/completions', { json: question(i, extra) });

/** A stream that is read as it comes; `began` resolves with the first text. */
function stream(i: number) {
  const began = Promise.withResolvers<void>();
  const read = async () => {
    const response = await t.app.request('/v1/chat/completions', {
      method: 'POST',
      headers: { authorization: `Bearer ${t.alice.key}`, 'content-type': 'application/json' },
      body: JSON.stringify(question(i, { stream: true })),
    });
    let text = '';
    for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      if (/"content":"[^"]/.test(text)) began.resolve();
    }
    return text.split('\n\n').filter(Boolean);
  };
  return { began: began.promise, events: read() };
}

describe('a worker that is killed under load', () => {
  it('costs no answer of which nothing was sent, and ends streams with an error', async () => {
    const expected = await Promise.all([0, 1, 2, 3].map((i) => ask(i)));
    await slowDown();
    const answers = [0, 1, 2, 3].map((i) => ask(i));
    const streams = [0, 1, 2].map(stream);
    await Promise.all(streams.map(({ began }) => began));
    await killWorker();
    startAnother();
    for (const { events } of streams) {
      const [last, before] = (await events).toReversed();
      expect(JSON.parse(last!.slice(6)).error).toMatchObject({ type: 'server_error', code: 'worker_lost' });
      expect(JSON.parse(before!.slice(6)).object).toBe('chat.completion.chunk');
    }
    for (const [i, answer] of (await Promise.all(answers)).entries()) {
      expect(answer.status, answer.text).toBe(200);
      expect(answer.json.choices).toEqual(expected[i]!.json.choices);
      expect(answer.json.usage.completion_tokens).toBe(200);
    }
    expect(t.logged.join('')).toContain('worker did not answer');
  });

  it('is not replaced a third time for the same request', async () => {
    const underWay = () =>
      vi.waitFor(
        async () => {
          const { url } = await serving();
          const health = await readHealth(url!, WORKER_TOKEN, new AbortController().signal);
          if (!health?.running) throw new Error('nothing runs');
        },
        { timeout: 60_000, interval: 5 },
      );
    // As long as the context allows: it must still run when the kill comes.
    const answering = ask(5, { n: 8, max_tokens: 230 });
    for (let kills = 0; kills < 2; kills++) {
      await slowDown();
      await underWay();
      await killWorker();
      startAnother();
    }
    const answer = await answering;
    expect([answer.status, answer.json.error.code]).toEqual([500, 'request_stops_workers']);
    expect(answer.headers.get('x-should-retry')).toBe('false');
    await serving();
    expect((await ask(6)).status).toBe(200);
  });
});

it('a base model that was replaced does not serve what was trained before, and serves it again once it is back', async () => {
  const { trained, world } = there;
  const before = await ask(1, { model: trained });
  expect(before.status, before.text).toBe(200);
  const file = path.join(world.modelDirectory, 'model.safetensors');
  const original = readFileSync(file);
  const other = Buffer.from(original);
  other[other.length - 1]! ^= 1;
  await killWorker();
  writeFileSync(file, other);
  try {
    const { output } = startAnother();
    await serving();
    const refused = await ask(1, { model: trained });
    expect([refused.status, refused.json.error.code]).toEqual([503, 'base_model_changed']);
    expect(refused.json.error.message).toContain(trained);
    expect((await ask(1)).status).toBe(200);
    await vi.waitFor(() => expect(output()).toContain('has other files than when it was last opened'));
    // The trainers' sweep: an export waits for a worker that was there a moment ago.
    await t.database.db.delete(workers).where(eq(workers.state, 'dead'));
    const created = await t.call('POST', '/v1/fine_tuning/exports', { json: { model: trained } });
    const exported = async () => (await t.call('GET', `/v1/fine_tuning/exports/${created.json.id}`)).json;
    await vi.waitFor(async () => expect((await exported()).status).toBe('failed'), { timeout: 30_000 });
    expect((await exported()).error).toMatchObject({ code: 'base_model_changed' });
  } finally {
    await killWorker();
    writeFileSync(file, original);
  }
  startAnother();
  await serving();
  const after = await ask(1, { model: trained });
  expect(after.json.choices).toEqual(before.json.choices);
  expect(after.json.system_fingerprint).toBe(before.json.system_fingerprint);
});
