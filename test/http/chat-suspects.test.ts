/** Requests that were under way when a worker stopped: who is blamed, who is asked again, and what is no stop at all. */
import { connect } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { workers } from '../../src/db/schema.ts';
import { newId } from '../../src/ids.ts';
import type { WorkerError } from '../../src/inference/protocol.ts';
import { listen } from '../../src/server.ts';
import { BASE_MODEL } from '../helpers/app.ts';
import { useChat } from './chat-service.ts';
import { answerOf, type Script, ScriptedWorker } from './scripted-worker.ts';

const { t, there, chat } = useChat();

/** The dispatcher behind fetch, whose class is not exported by Node. */
const DISPATCHER = Symbol.for('undici.globalDispatcher.1');
type Agents = Record<symbol, { constructor: new (options: object) => never }>;
const agents = globalThis as unknown as Agents;

/** Sets the options of fetch's connections until the test ends. */
async function setConnections(options: object): Promise<void> {
  await fetch(`${there.worker.url}/health`); // makes the dispatcher
  original ??= agents[DISPATCHER]!;
  agents[DISPATCHER] = new original.constructor(options);
}
let original: Agents[symbol] | null = null;
afterEach(() => {
  if (original) agents[DISPATCHER] = original;
});

const says = (content: string) => ({ messages: [{ role: 'user', content }] });
const asked = (content: string) =>
  there.worker.requests.filter(({ messages }) => messages[0]!.content === content).length;

describe('a request that stops its worker', () => {
  it('is refused, and none of those that decode while it begins', async () => {
    const [start, first, ...rest] = answerOf(['f', 'ine']);
    there.worker.script = ({ messages }) => {
      if (messages[0]!.content !== 'stops') return [start!, first!, 400, ...rest];
      setTimeout(() => there.worker.breakAll(), 60);
      return [10_000];
    };
    const contents = ['a', 'b', 'stops', 'c', 'd'];
    const answers = await Promise.all(contents.map((content) => chat(says(content))));
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 500, 200, 200]);
    expect(answers[2]!.json.error.code).toBe('request_stops_workers');
    expect(asked('stops')).toBeLessThanOrEqual(5);
  });

  it('is refused when it stops it late, and none of those beside it', async () => {
    const [start, first, ...rest] = answerOf(['f', 'ine']);
    there.worker.script = ({ messages }): Script => {
      if (messages[0]!.content !== 'stops') return [start!, first!, 150, ...rest];
      setTimeout(() => there.worker.breakAll(), 100);
      return [start!, first!, 10_000];
    };
    const contents = ['a', 'stops', 'b', 'c', 'd'];
    const answers = await Promise.all(contents.map((content) => chat(says(content))));
    expect(answers.map(({ status }) => status)).toEqual([200, 500, 200, 200, 200]);
  });

  it('is not known while new ones keep coming: those are answered', async () => {
    const [start, first, ...rest] = answerOf(['f', 'ine']);
    there.worker.script = ({ messages }): Script => {
      if (messages[0]!.content !== 'stops') return [start!, first!, 30, ...rest];
      setTimeout(() => there.worker.breakAll(), 20);
      return [10_000];
    };
    const stopping = chat(says('stops'));
    const fresh: ReturnType<typeof chat>[] = [];
    let ended = false;
    void stopping.finally(() => {
      ended = true;
    });
    for (let i = 0; !ended && i < 400; i++) {
      fresh.push(chat(says(`${i}`)));
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const statuses = new Set((await Promise.all(fresh)).map(({ status }) => status));
    expect([...statuses]).toEqual([200]);
    expect([500, 503]).toContain((await stopping).status);
    expect(asked('stops')).toBeLessThanOrEqual(6);
  });
});

describe('a worker that is slow', () => {
  const [start, first, ...rest] = answerOf(['late', 'r']);
  for (const [when, script] of [
    ['before it begins', [4_000, ...answerOf(['later'])]],
    ['between two tokens', [start!, first!, 4_000, ...rest]],
  ] as const) {
    it(`has not stopped: the request may be sent again (${when})`, async () => {
      await setConnections({ headersTimeout: 300, bodyTimeout: 300 });
      there.worker.script = [...script];
      const answer = await chat();
      expect([answer.status, answer.json.error.code]).toEqual([503, 'model_unavailable']);
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
      expect(there.worker.requests.length).toBe(1);
    });
  }
});

it('a host that cannot be found holds up the first of the suspects, not each of them', async () => {
  let attempts = 0;
  const timeout = () => Object.assign(new Error('no route'), { code: 'UND_ERR_CONNECT_TIMEOUT' });
  await setConnections({
    connections: 100,
    connect(
      { hostname, port }: { hostname: string; port: string },
      done: (e: Error | null, s: unknown) => void,
    ) {
      if (hostname !== 'vanished.invalid') {
        const socket = connect(Number(port), hostname, () => done(null, socket));
        return;
      }
      attempts += 1;
      setTimeout(() => done(timeout(), null), 1_100);
    },
  });
  let isUp = false;
  there.worker.script = (): Script => (isUp ? answerOf(['fine']) : [10_000]);
  const contents = ['a', 'b', 'c', 'd', 'e', 'f'];
  const answering = contents.map((content) => chat(says(content)));
  while (there.worker.requests.length < contents.length)
    await new Promise((resolve) => setTimeout(resolve, 5));
  const row = { device: 'none', host: 'h', pid: 1, kind: 'inference', state: 'ready' };
  const url = 'http://vanished.invalid:9999';
  await t.database.db.insert(workers).values({ ...row, id: newId('worker_'), baseModel: BASE_MODEL, url });
  await there.worker.stop();
  const next = await ScriptedWorker.start(t.database);
  next.script = answerOf(['fine']);
  isUp = true;
  expect((await Promise.all(answering)).map(({ status }) => status)).toEqual(contents.map(() => 200));
  expect(attempts).toBeLessThanOrEqual(1);
  there.worker = next;
});

it('a request that waits for a worker is told when the service goes down', async () => {
  const server = await listen(t.app.fetch as never, { host: '127.0.0.1', port: 0 });
  there.worker.script = [10_000];
  const answering = fetch(`${server.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${t.alice.key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: BASE_MODEL, ...says('waits') }),
  });
  while (asked('waits') === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await there.worker.stop();
  await new Promise((resolve) => setTimeout(resolve, 100)); // now it waits
  const closed = server.close(0.2);
  const answer = await answering;
  const { error } = (await answer.json()) as { error: WorkerError };
  expect([answer.status, answer.headers.get('retry-after'), error.code]).toEqual([
    503,
    '5',
    'server_is_overloaded',
  ]);
  await closed;
});

describe('a worker that says why', () => {
  const refusal = (status: 500 | 503, code: string): WorkerError => ({
    ...{ status, code, type: 'server_error', param: null, message: 'No.' },
  });

  it('is believed where another one would compute the same', async () => {
    const second = await ScriptedWorker.start(t.database);
    const error = refusal(500, 'model_not_finite');
    for (const each of [there.worker, second])
      each.script = [...answerOf(['a']).slice(0, 2), { type: 'error', error }];
    const answer = await chat();
    expect([answer.status, answer.json.error.code]).toEqual([500, 'model_not_finite']);
    expect(there.worker.requests.length + second.requests.length).toBe(1);
    await second.stop();
  });

  it('is not asked again about files that it does not hold', async () => {
    there.worker.script = refusal(503, 'base_model_changed');
    const answer = await chat();
    expect([answer.status, answer.headers.get('x-should-retry')]).toEqual([503, 'false']);
  });

  it('is waited for when it shuts down in the middle of an answer', async () => {
    const error = { ...refusal(503, 'server_is_overloaded'), retry_after_seconds: 1 };
    there.worker.script = [...answerOf(['a']).slice(0, 2), { type: 'error', error }];
    const answering = chat(says('cut'));
    while (asked('cut') === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    await there.worker.stop();
    await new Promise((resolve) => setTimeout(resolve, 300)); // nobody is there
    const next = await ScriptedWorker.start(t.database);
    next.script = answerOf(['whole']);
    there.worker = next;
    const answer = await answering;
    expect(answer.status, answer.text).toBe(200);
    expect(answer.json.choices[0].message.content).toBe('whole');
  });
});
