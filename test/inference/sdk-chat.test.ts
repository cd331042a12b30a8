/**
 * The official SDK against the API with a real worker on the shipped model: structured answers, tools in a loop,
 * streams and text completions, as a user's program would ask for them.
 */
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { workers } from '../../src/db/schema.ts';
import { newId } from '../../src/ids.ts';
import { BASE_MODEL, useApp, WORKER_TOKEN } from '../helpers/app.ts';
import { TinyWorker, TinyWorld } from './tiny-worker.ts';

const t = useApp();
let world: TinyWorld;
let worker: TinyWorker;
let client: OpenAI;

beforeAll(async () => {
  world = await TinyWorld.shipped();
  worker = await TinyWorker.start(world, { token: WORKER_TOKEN, baseModel: BASE_MODEL, tokenBudget: 256 });
  await t.database.db.insert(workers).values({
    id: newId('worker_'),
    kind: 'inference',
    url: worker.url,
    baseModel: BASE_MODEL,
    device: 'cpu',
    host: 'localhost',
    pid: process.pid,
    state: 'ready',
    heartbeatAt: new Date(Date.now() + 3_600_000),
  });
  client = new OpenAI({ baseURL: await t.serve(), apiKey: t.alice.key, maxRetries: 0 });
}, 60_000);
afterAll(async () => {
  await worker.stop();
  await world.remove();
});

const model = BASE_MODEL;
const ask = (content: string) => [{ role: 'user' as const, content }];
const order = {
  type: 'object',
  properties: { item: { enum: ['cup', 'boat'] }, count: { type: 'integer', minimum: 1, maximum: 9 } },
  required: ['item', 'count'],
  additionalProperties: false,
};
const orderFormat = {
  type: 'json_schema' as const,
  json_schema: { name: 'order', strict: true, schema: order },
};

describe('the SDK and the shipped model', { timeout: 60_000 }, () => {
  it('parse() gives the object of the schema', async () => {
    const parsed = await client.chat.completions.parse({
      model,
      messages: ask('Two cups, please.'),
      response_format: orderFormat,
      n: 2,
      seed: 1,
    });
    for (const { message, finish_reason } of parsed.choices) {
      expect(finish_reason).toBe('stop');
      expect(message.parsed).toEqual({
        item: expect.stringMatching(/^(cup|boat)$/),
        count: expect.any(Number),
      });
    }
  });

  it('stream() gathers constrained text with log-probabilities and usage', async () => {
    const stream = client.chat.completions.stream({
      model,
      messages: ask('Two cups, please.'),
      response_format: orderFormat,
      temperature: 0,
      logprobs: true,
      top_logprobs: 2,
      stream_options: { include_usage: true },
    });
    const done = await stream.finalChatCompletion();
    const choice = done.choices[0]!;
    expect(choice.message.parsed).toMatchObject({ count: expect.any(Number) });
    expect(choice.logprobs?.content?.map(({ token }) => token).join('')).toBe(choice.message.content);
    // The token that ends the answer is counted, and has no text.
    expect(done.usage?.completion_tokens).toBe(choice.logprobs!.content!.length + 1);
  });

  it('runTools() calls the function and gives its answer back', async () => {
    const asked: unknown[] = [];
    const runner = client.chat.completions.runTools({
      model,
      messages: ask('Order two cups.'),
      tool_choice: { type: 'function', function: { name: 'order' } },
      tools: [
        {
          type: 'function',
          function: {
            name: 'order',
            description: 'Orders things.',
            parameters: order,
            parse: JSON.parse,
            function: (args: unknown) => {
              asked.push(args);
              return 'ordered';
            },
          },
        },
      ],
    });
    await runner.done();
    expect(asked).toHaveLength(1);
    expect(asked[0]).toMatchObject({ item: expect.any(String), count: expect.any(Number) });
    expect(runner.messages.map(({ role }) => role)).toEqual(['user', 'assistant', 'tool']);
  });

  it('tool messages go back into the prompt', async () => {
    const tools = [
      { type: 'function' as const, function: { name: 'order', strict: true, parameters: order } },
    ];
    const first = await client.chat.completions.create({
      model,
      messages: ask('Order two cups.'),
      tools,
      tool_choice: 'required',
      parallel_tool_calls: false,
    });
    const { message, finish_reason } = first.choices[0]!;
    expect([finish_reason, message.content, message.tool_calls?.length]).toEqual(['tool_calls', null, 1]);
    const [call] = message.tool_calls!;
    const second = await client.chat.completions.create({
      model,
      messages: [
        ...ask('Order two cups.'),
        message,
        { role: 'tool', tool_call_id: call!.id, content: 'done' },
      ],
      tools,
      max_tokens: 10,
    });
    expect(second.usage!.prompt_tokens).toBeGreaterThan(first.usage!.prompt_tokens);
    expect(second.usage!.prompt_tokens_details!.cached_tokens).toBeGreaterThan(0);
  });

  it('streams the arguments of forced calls', async () => {
    const stream = client.chat.completions.stream({
      model,
      messages: ask('Order two cups.'),
      tools: [{ type: 'function', function: { name: 'order', strict: true, parameters: order } }],
      tool_choice: 'required',
      parallel_tool_calls: false,
      seed: 3,
    });
    let deltas = 0;
    stream.on('tool_calls.function.arguments.delta', () => deltas++);
    const { choices } = await stream.finalChatCompletion();
    const call = choices[0]!.message.tool_calls![0] as { function: { arguments: string } };
    expect(Object.keys(JSON.parse(call.function.arguments))).toEqual(['item', 'count']);
    expect(deltas).toBeGreaterThan(1);
    expect(choices[0]!.finish_reason).toBe('tool_calls');
  });

  it('text completions echo and score the prompt, and choose the best', async () => {
    const scored = await client.completions.create({
      model,
      prompt: 'Wendy',
      echo: true,
      logprobs: 2,
      max_tokens: 0,
    });
    expect(scored.choices[0]).toMatchObject({ text: 'Wendy', finish_reason: 'length' });
    expect(scored.choices[0]!.logprobs!.tokens!.join('')).toBe('Wendy');
    const greedy = { model, prompt: ['Wendy lives', 'The count'], max_tokens: 5, temperature: 0 };
    const plain = await client.completions.create(greedy);
    const best = await client.completions.create({ ...greedy, best_of: 3 });
    expect(best.choices).toEqual(plain.choices);
    const unknown = client.completions.create({ model, prompt: [1, 5_000_000] });
    await expect(unknown).rejects.toMatchObject({ status: 400, param: 'prompt' });
  });
});
