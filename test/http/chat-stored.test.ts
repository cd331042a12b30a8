/** Stored chat completions through the SDK: kept whole or streamed, listed by page and filter, changed, deleted. */
import { eq } from 'drizzle-orm';
import OpenAI from 'openai';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { chatCompletions } from '../../src/db/schema-chat.ts';
import { BASE_MODEL, useApp } from '../helpers/app.ts';
import { addChatCompletion } from './rows.ts';
import { answerOf, ScriptedWorker } from './scripted-worker.ts';

const t = useApp();
let worker: ScriptedWorker;
let client: OpenAI;
beforeEach(async () => {
  worker = await ScriptedWorker.start(t.database);
  worker.script = answerOf(['Hel', 'lo\u0000']);
  client = new OpenAI({ baseURL: await t.serve(), apiKey: t.alice.key, maxRetries: 0 });
});
afterEach(() => worker.stop());

const messages = [
  { role: 'developer' as const, content: 'Be brief.' },
  { role: 'user' as const, content: [{ type: 'text' as const, text: 'Hi' }] },
];
const create = (extra: object = {}) =>
  client.chat.completions.create({ model: BASE_MODEL, messages, store: true, ...extra });

describe('store', () => {
  it('keeps what was asked and answered, whole or streamed', async () => {
    const whole = await create({ metadata: { run: '1' }, temperature: 0.5, seed: 7, logprobs: true });
    const kept = await client.chat.completions.retrieve(whole.id);
    expect(kept).toMatchObject({
      id: whole.id,
      object: 'chat.completion',
      model: BASE_MODEL,
      choices: whole.choices,
      usage: whole.usage,
      metadata: { run: '1' },
      temperature: 0.5,
      seed: 7,
      request_id: expect.stringMatching(/^req_/),
    });
    expect(kept.choices[0]?.message.content).toBe('Hello\u0000');

    const stream = await create({ stream: true });
    let id = '';
    for await (const chunk of stream as unknown as AsyncIterable<{ id: string }>) id = chunk.id;
    expect((await client.chat.completions.retrieve(id)).choices[0]?.message.content).toBe('Hello\u0000');

    const unkept = await create({ store: false });
    await expect(client.chat.completions.retrieve(unkept.id)).rejects.toMatchObject({ status: 404 });
  });

  it('lists the messages that were asked', async () => {
    const { id } = await create();
    const listed = [];
    for await (const message of client.chat.completions.messages.list(id, { limit: 1 })) listed.push(message);
    expect(listed).toMatchObject([
      { id: `${id}-0`, role: 'developer', content: 'Be brief.' },
      { id: `${id}-1`, role: 'user', content: 'Hi', content_parts: [{ type: 'text', text: 'Hi' }] },
    ]);
    const latest = await client.chat.completions.messages.list(id, { order: 'desc', limit: 1 });
    expect([latest.data[0]?.role, latest.has_more]).toEqual(['user', true]);
  });

  it('lists by page, order, model and metadata, for its project only', async () => {
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) {
      ids.push(
        await addChatCompletion(t, t.alice, { model: 'listed', metadata: i % 2 ? { odd: 'yes' } : null }),
      );
    }
    await addChatCompletion(t, t.bob, { model: 'listed' });
    const seen: string[] = [];
    for await (const { id } of client.chat.completions.list({ model: 'listed', limit: 2 })) seen.push(id);
    expect(seen).toEqual(ids);
    const newest = await client.chat.completions.list({ model: 'listed', order: 'desc', limit: 2 });
    expect(newest.data.map(({ id }) => id)).toEqual([ids[4], ids[3]]);
    const odd = await client.chat.completions.list({ model: 'listed', metadata: { odd: 'yes' } });
    expect(odd.data.map(({ id }) => id)).toEqual([ids[1], ids[3]]);
    const plain = await client.chat.completions.list({ model: 'listed', metadata: null });
    expect(plain.data).toHaveLength(3);
  });

  it('keeps of the request what it shows, and no text without bounds', async () => {
    const tools = [{ type: 'function' as const, function: { name: 'f' } }];
    const asked = { user: 'u'.repeat(512), prediction: { type: 'content' as const, content: 'p' }, tools };
    const { id } = await create({ ...asked, logit_bias: { 5: 1 } });
    const [row] = await t.database.db.select().from(chatCompletions).where(eq(chatCompletions.id, id));
    expect(row?.request).toEqual({ messages });
    expect(await client.chat.completions.retrieve(id)).toMatchObject({ input_user: asked.user, tools });
    for (const [field, json] of [
      ['user', { user: 'u'.repeat(513) }],
      ['prompt_cache_key', { prompt_cache_key: 'u'.repeat(513) }],
      ['prompt_cache_retention', { prompt_cache_retention: 'u'.repeat(65) }],
      ['prompt_cache_options.other', { prompt_cache_options: { other: 'u' } }],
    ] as const) {
      const fields = { model: BASE_MODEL, messages, ...json };
      const { status, json: answer } = await t.call('POST', '/v1/chat/completions', { json: fields });
      expect([status, answer.error.param]).toEqual([400, field]);
    }
    const text = { model: BASE_MODEL, prompt: 'x', user: 'u'.repeat(513) };
    expect((await t.call('POST', '/v1/completions', { json: text })).json.error.param).toBe('user');
  });

  it('ends a page early when its completions are large', async () => {
    const choices = [{ index: 0, message: { role: 'assistant', content: 'x'.repeat(5 * 2 ** 20) } }];
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) ids.push(await addChatCompletion(t, t.alice, { model: 'large', choices }));
    const first = await client.chat.completions.list({ model: 'large', limit: 100 });
    expect([first.data.map(({ id }) => id), first.has_more]).toEqual([ids.slice(0, 2), true]);
    const seen: string[] = [];
    for await (const { id } of client.chat.completions.list({ model: 'large', order: 'desc' })) seen.push(id);
    expect(seen).toEqual(ids.toReversed());
  });

  it('changes metadata and deletes', async () => {
    const { id } = await create();
    const changed = await client.chat.completions.update(id, { metadata: { k: 'v' } });
    expect([changed.id, changed.metadata]).toEqual([id, { k: 'v' }]);
    expect(await client.chat.completions.delete(id)).toEqual({
      id,
      object: 'chat.completion.deleted',
      deleted: true,
    });
    await expect(client.chat.completions.delete(id)).rejects.toMatchObject({
      status: 404,
      code: 'completion_not_found',
    });
  });

  it('names what is wrong with a question', async () => {
    const at = (path: string) => t.call('GET', `/v1/chat/completions${path}`);
    const id = await addChatCompletion(t, t.alice);
    for (const [path, param] of [
      ['?after=nothing', 'after'],
      ['?limit=0', 'limit'],
      ['?order=up', 'order'],
      ['?metadata=1', 'metadata'],
      [`/${id}/messages?after=x`, 'after'],
    ] as const) {
      const { status, json } = await at(path);
      expect([path, status, json.error.param]).toEqual([path, 400, param]);
    }
    const { status, json } = await t.call('POST', `/v1/chat/completions/${id}`, {
      json: { metadata: { a: 1 } },
    });
    expect([status, json.error.param]).toEqual([400, 'metadata.a']);
  });
});
