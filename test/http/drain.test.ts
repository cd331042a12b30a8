/** Answers under way while the server goes down: they finish within the drain, or end with an error that says so. */
import OpenAI, { APIError } from 'openai';
import { expect, it } from 'vitest';
import { listen } from '../../src/server.ts';
import { BASE_MODEL } from '../helpers/app.ts';
import { useChat } from './chat-service.ts';
import { answerOf } from './scripted-worker.ts';

const { t, there } = useChat();
const LONG_MS = 60_000;
const messages = [{ role: 'user' as const, content: 'Hi' }];

async function serve() {
  const server = await listen(t.app.fetch as never, { host: '127.0.0.1', port: 0 });
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: t.alice.key, maxRetries: 0 });
  return { server, client };
}

/** The text of a stream and how it ended. */
async function read(
  stream: AsyncIterable<{ choices: { delta?: { content?: string | null }; text?: string }[] }>,
) {
  let text = '';
  try {
    for await (const { choices } of stream) text += choices[0]?.delta?.content ?? choices[0]?.text ?? '';
    return { text, error: null };
  } catch (error) {
    return { text, error: error as APIError };
  }
}

it('lets them finish within its time', async () => {
  const { server, client } = await serve();
  const [start, first, ...rest] = answerOf(['Hel', 'lo']);
  there.worker.script = [start!, first!, 300, ...rest];
  const stream = await client.chat.completions.create({ model: BASE_MODEL, messages, stream: true });
  const closed = server.close(20);
  expect(await read(stream)).toEqual({ text: 'Hello', error: null });
  await closed;
});

it('ends what takes longer with an error that SDKs see, streamed or whole', async () => {
  const { server, client } = await serve();
  const [start, first, ...rest] = answerOf(['Hel', 'lo']);
  there.worker.script = [start!, first!, LONG_MS, ...rest];
  const chat = await client.chat.completions.create({ model: BASE_MODEL, messages, stream: true });
  const text = await client.completions.create({ model: BASE_MODEL, prompt: 'Hi', stream: true });
  const whole = client.chat.completions.create({ model: BASE_MODEL, messages }).catch((error) => error);
  while (there.worker.requests.length < 3) await new Promise((resolve) => setTimeout(resolve, 10));
  const closed = server.close(0.3);
  for (const { text: said, error } of await Promise.all([read(chat), read(text)])) {
    expect(said).toBe('Hel');
    expect(error).toBeInstanceOf(APIError);
    expect(error?.code).toBe('server_is_overloaded');
  }
  expect(await whole).toMatchObject({ status: 503, code: 'server_is_overloaded' });
  await closed;
});
