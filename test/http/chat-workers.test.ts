/** Which worker answers a chat completion, and what happens when one cannot. */
import { eq } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';
import { workers } from '../../src/db/schema.ts';
import { tunedModels } from '../../src/db/schema-jobs.ts';
import { wereSeenLately } from '../../src/domain/chat/suited-workers.ts';
import { newId } from '../../src/ids.ts';
import type { WorkerError } from '../../src/inference/protocol.ts';
import { BASE_MODEL } from '../helpers/app.ts';
import { ask, eventsOf, useChat } from './chat-service.ts';
import { addTunedModel } from './rows.ts';
import { answerOf, ScriptedWorker } from './scripted-worker.ts';

const { t, there, chat } = useChat();

describe('which worker answers', () => {
  const refusal = (status: 429 | 503 | 400): WorkerError => ({
    status,
    type: 'x_error',
    code: 'x',
    param: 'messages',
    message: 'No.',
    retry_after_seconds: 9,
  });

  it('is another one as long as no token has come', async () => {
    const second = await ScriptedWorker.start(t.database);
    second.script = answerOf(['second']);
    for (const script of [refusal(503), refusal(429), ['break'], [answerOf([])[0]!, 'break']] as const) {
      there.worker.script = [...(Array.isArray(script) ? script : [])];
      if (!Array.isArray(script)) there.worker.script = script as WorkerError;
      for (let i = 0; i < 4; i++) expect((await chat()).json.choices[0].message.content).toBe('second');
    }
    expect(there.worker.requests.length).toBeGreaterThan(0);
    await second.stop();
  });

  const broken = () => [...answerOf(['a', 'b']).slice(0, 2), 20, 'break' as const];

  it('is never another one after a token was streamed', async () => {
    const second = await ScriptedWorker.start(t.database);
    for (const each of [there.worker, second]) each.script = broken();
    const { chunks, last } = eventsOf(await chat({ stream: true }));
    expect(chunks.map(({ choices }) => choices?.[0].delta.content)).toEqual(['', 'a', undefined]);
    expect(chunks.at(-1)).toEqual({
      error: {
        message: 'The worker that generated this answer was lost. Please try again.',
        type: 'server_error',
        param: null,
        code: 'worker_lost',
      },
    });
    expect(last).not.toBe('[DONE]');
    expect(there.worker.requests.length + second.requests.length).toBe(1);
    await second.stop();
  });

  it('is another one at any time, once, when nothing is sent before the end', async () => {
    const second = await ScriptedWorker.start(t.database);
    for (const path of ['/v1/chat/completions', '/v1/completions']) {
      const json = path.includes('chat') ? ask() : { model: BASE_MODEL, prompt: 'Hi' };
      there.worker.script = broken();
      second.script = answerOf(['whole']);
      for (let i = 0; i < 6; i++) {
        const answer = await t.call('POST', path, { json });
        expect(answer.status, answer.text).toBe(200);
        const [choice] = answer.json.choices;
        expect(choice.text ?? choice.message.content).toBe('whole');
      }
    }
    expect(there.worker.requests.length).toBeGreaterThan(0);
    await second.stop();
  });

  it('is none after two that stopped while they worked on it', async () => {
    const second = await ScriptedWorker.start(t.database);
    const third = await ScriptedWorker.start(t.database);
    const all = [there.worker, second, third];
    const lost: WorkerError = { ...refusal(503), code: 'worker_lost' };
    for (const script of [broken(), lost, ['break' as const]]) {
      for (const each of all) each.script = script;
      const asked = all.reduce((sum, each) => sum + each.requests.length, 0);
      const answer = await chat();
      expect([answer.status, answer.json.error.code]).toEqual([500, 'request_stops_workers']);
      expect(answer.headers.get('x-should-retry')).toBe('false');
      expect(all.reduce((sum, each) => sum + each.requests.length, 0)).toBe(asked + 2);
    }
    await Promise.all([second.stop(), third.stop()]);
  });

  it('is refused to the request that stops it, and not to those beside it', async () => {
    const contents = ['a', 'b', 'stops', 'c', 'd', 'e'];
    const asked = (content: unknown) =>
      there.worker.requests.filter(({ messages }) => messages[0]!.content === content).length;
    // It stops once all are under way, however long their arrival takes, and again when it is asked again.
    there.worker.script = ({ messages: [message] }) => {
      const isAgain = asked(message!.content) > 1;
      if (isAgain && message!.content !== 'stops') return answerOf(['fine']);
      if (isAgain || contents.every((content) => asked(content) > 0)) {
        setTimeout(() => there.worker.breakAll(), 40);
      }
      return [10_000];
    };
    const answers = await Promise.all(
      contents.map((content, i) => chat({ messages: [{ role: 'user', content }], stream: i === 1 })),
    );
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 500, 200, 200, 200]);
    expect(answers[2]!.json.error.code).toBe('request_stops_workers');
    expect(contents.map(asked)).toEqual([2, 2, 2, 2, 2, 2]);
  });

  it('is the one that takes over, where a request was lost with the only one', async () => {
    for (const extra of [{}, { stream: true }]) {
      there.worker.script = ['break'];
      const asked = there.worker.requests.length;
      const answering = chat(extra);
      while (there.worker.requests.length === asked) await new Promise((resolve) => setTimeout(resolve, 5));
      await there.worker.stop();
      const next = await ScriptedWorker.start(t.database);
      next.script = answerOf(['after', ' all']);
      const answer = await answering;
      expect(answer.status, answer.text).toBe(200);
      expect(answer.text).toContain('after');
      expect(next.requests.length).toBe(1);
      there.worker = next;
    }
  });

  it('is one that holds the files its model was trained on', async () => {
    const tuned = await addTunedModel(t, t.alice, { tail: 'digest01' });
    const [mine, other] = ['a'.repeat(64), 'b'.repeat(64)];
    const holds = (worker: ScriptedWorker, baseDigest: string | null) =>
      t.database.db.update(workers).set({ baseDigest }).where(eq(workers.id, worker.id));
    const trainedOn = (baseDigest: string | null) =>
      t.database.db.update(tunedModels).set({ baseDigest }).where(eq(tunedModels.id, tuned.id));
    const second = await ScriptedWorker.start(t.database);
    second.script = answerOf(['right']);
    await trainedOn(mine);
    await holds(there.worker, other);
    await holds(second, mine);
    const fingerprints = new Set<string>();
    for (let i = 0; i < 6; i++) {
      const answer = await chat({ model: tuned.id });
      expect(answer.json.choices[0].message.content).toBe('right');
      fingerprints.add(answer.json.system_fingerprint);
    }
    expect(there.worker.requests).toEqual([]);
    expect(second.requests[0]).toMatchObject({ base_digest: mine });
    expect(fingerprints.size).toBe(1);
    await second.stop();

    const refused = await chat({ model: tuned.id, stream: true });
    expect([refused.status, refused.headers.get('x-should-retry'), refused.json.error]).toEqual([
      503,
      'false',
      {
        message:
          `The model '${tuned.id}' cannot be served: the files of its base model '${BASE_MODEL}' are not the ones it ` +
          'was trained on. The operator must bring those back, or the model has to be trained again.',
        type: 'service_unavailable_error',
        param: 'model',
        code: 'base_model_changed',
      },
    ]);
    expect(there.worker.requests).toEqual([]);
    expect(t.logged.join('')).toContain('trained on other files of its base model than some workers hold');
    expect((await chat()).status).toBe(200); // the base model itself

    await trainedOn(null); // from before digests were kept
    expect((await chat({ model: tuned.id })).status).toBe(200);
    await trainedOn(mine);
    expect(there.worker.requests.length).toBe(2);
    await holds(there.worker, null); // a worker of an earlier release, which refuses fields that it does not know
    expect((await chat({ model: tuned.id })).status).toBe(200);
    expect(there.worker.requests).toHaveLength(3);
    expect(there.worker.requests.at(-1)).not.toHaveProperty('base_digest');
  });

  it('passes on why it refuses', async () => {
    there.worker.script = refusal(429);
    const busy = await chat();
    expect([busy.status, busy.headers.get('retry-after'), busy.json.error]).toEqual([
      429,
      '9',
      { message: 'No.', type: 'x_error', param: 'messages', code: 'x' },
    ]);
    there.worker.script = refusal(400);
    expect((await chat({ stream: true })).status).toBe(400);
  });

  it('is none without one that is ready, alive and holds the model', async () => {
    await there.worker.stop();
    const row = { device: 'none', host: 'h', pid: 1, kind: 'inference', url: 'http://127.0.0.1:9' };
    await t.database.db.insert(workers).values([
      { ...row, id: newId('worker_'), baseModel: BASE_MODEL, state: 'draining' },
      { ...row, id: newId('worker_'), baseModel: 'another', state: 'ready' },
      {
        ...row,
        id: newId('worker_'),
        baseModel: BASE_MODEL,
        state: 'ready',
        heartbeatAt: new Date(Date.now() - 20_000),
      },
    ]);
    const answer = await chat();
    expect([answer.status, answer.json.error.code]).toEqual([503, 'model_unavailable']);
    expect(answer.json.error.message).toContain('no worker that holds it is ready');
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);

    await t.database.db.delete(workers).where(eq(workers.baseModel, BASE_MODEL));
    const tuned = await addTunedModel(t, t.alice, { tail: 'nobody01' });
    for (const [model, why] of [
      [BASE_MODEL, 'no inference worker holds it.'],
      [tuned.id, `no inference worker holds its base model '${BASE_MODEL}'.`],
    ]) {
      const { status, headers, json } = await chat({ model });
      expect([status, json.error.code, json.error.param]).toEqual([503, 'model_unavailable', 'model']);
      expect(json.error.message).toBe(`The model '${model}' cannot be served at the moment: ${why}`);
      // There was one a moment ago, which may come back.
      expect([headers.get('x-should-retry'), headers.get('retry-after')]).toEqual([null, '2']);
    }
    const later = performance.now() + 61_000;
    expect([wereSeenLately(BASE_MODEL), wereSeenLately(BASE_MODEL, later)]).toEqual([true, false]);
    expect(wereSeenLately('never held')).toBe(false);
  });
});
