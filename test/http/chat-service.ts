// The service with a scripted worker behind /v1/chat/completions: what the tests of completions start from.
import { afterEach, beforeEach, expect } from 'vitest';
import { chunkSchema } from '../../src/http/schemas/chat-answer.ts';
import { type Answer, BASE_MODEL, useApp } from '../helpers/app.ts';
import { answerOf, ScriptedWorker } from './scripted-worker.ts';

export const ask = (extra: object = {}) => ({
  model: BASE_MODEL,
  messages: [{ role: 'user', content: 'Hi' }],
  ...extra,
});

/** The data of an event stream: parsed chunks, and what was not JSON ("[DONE]"). */
export function eventsOf(answer: Answer) {
  const data = answer.text
    .split('\n\n')
    .filter((block) => block.startsWith('data: '))
    .map((block) => block.slice(6));
  const chunks = data.filter((d) => d.startsWith('{')).map((d) => JSON.parse(d));
  for (const chunk of chunks) if (!chunk.error) expect(chunkSchema.parse(chunk)).toEqual(chunk);
  return { chunks, last: data.at(-1) };
}

/** For a test file: registers the hooks; each test has a fresh worker in `there`, which says "Hello." */
export function useChat() {
  const t = useApp();
  const there = {} as { worker: ScriptedWorker };
  beforeEach(async () => {
    there.worker = await ScriptedWorker.start(t.database);
    there.worker.script = answerOf(['Hel', 'lo', '.']);
  });
  afterEach(() => there.worker.stop());
  const chat = (extra?: object) => t.call('POST', '/v1/chat/completions', { json: ask(extra) });
  return { t, there, chat };
}
