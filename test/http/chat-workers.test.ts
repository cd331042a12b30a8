/** Which worker answers a chat completion, and what happens when one cannot. */
import { describe, expect, it } from 'vitest';
import { workers } from '../../src/db/schema.ts';
import { newId } from '../../src/ids.ts';
import type { WorkerError } from '../../src/inference/protocol.ts';
import { BASE_MODEL } from '../helpers/app.ts';
import { useChat } from './chat-service.ts';
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

  it('is never another one after the first token', async () => {
    const second = await ScriptedWorker.start(t.database);
    for (const each of [there.worker, second])
      each.script = [...answerOf(['a', 'b']).slice(0, 2), 20, 'break'];
    const answer = await chat();
    expect([answer.status, answer.json.error.code]).toEqual([503, 'worker_lost']);
    expect(there.worker.requests.length + second.requests.length).toBe(1);
    await second.stop();
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
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
  });
});
