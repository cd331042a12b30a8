/** Tools and answer formats at the API: what the worker gets, what the caller reads, and what is refused by name. */
import OpenAI from 'openai';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { GenerateEvent } from '../../src/inference/protocol.ts';
import { BASE_MODEL, useApp } from '../helpers/app.ts';
import { answerOf, ScriptedWorker } from './scripted-worker.ts';

const t = useApp();
let worker: ScriptedWorker;
beforeEach(async () => {
  worker = await ScriptedWorker.start(t.database);
  worker.script = answerOf(['ok']);
});
afterEach(() => worker.stop());

const ask = (extra: object = {}) => ({
  model: BASE_MODEL,
  messages: [{ role: 'user' as const, content: 'Hi' }],
  ...extra,
});
const chat = (extra?: object) => t.call('POST', '/v1/chat/completions', { json: ask(extra) });

const parameters = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
};
const weather = {
  type: 'function',
  function: { name: 'get_weather', description: 'W', parameters, strict: true },
};
const time = { type: 'function', function: { name: 'get_time' } };

/** Two calls, the first with its arguments in pieces. */
const calling: GenerateEvent[] = [
  { type: 'start', prompt_tokens: 5, cached_tokens: 2 },
  { type: 'tool_call', index: 0, call: 0, name: 'get_weather' },
  { type: 'tool_arguments', index: 0, call: 0, text: '{"city":' },
  { type: 'tool_arguments', index: 0, call: 0, text: '"Bern"}' },
  { type: 'tool_call', index: 0, call: 1, name: 'get_time' },
  { type: 'tool_arguments', index: 0, call: 1, text: '{}' },
  { type: 'finish', index: 0, reason: 'tool_calls' },
  { type: 'done', prompt_tokens: 5, completion_tokens: 9, cached_tokens: 2 },
];

describe('tools', () => {
  it('reach the worker as templates know them, with the choice', async () => {
    await chat({ tools: [weather, time] });
    expect(worker.requests[0]).toMatchObject({
      tools: [weather, time],
      tool_choice: { mode: 'auto', names: null, parallel: true },
    });
    const named = { type: 'function', function: { name: 'get_time' } };
    const choices: [object, object][] = [
      [
        { tool_choice: 'required', parallel_tool_calls: false },
        { mode: 'required', names: null, parallel: false },
      ],
      [{ tool_choice: 'none' }, { mode: 'none', names: null, parallel: true }],
      [{ tool_choice: named }, { mode: 'required', names: ['get_time'], parallel: false }],
      [
        { tool_choice: { type: 'allowed_tools', allowed_tools: { mode: 'auto', tools: [named] } } },
        { mode: 'auto', names: ['get_time'], parallel: true },
      ],
    ];
    for (const [sent, got] of choices) {
      expect((await chat({ tools: [weather, time], ...sent })).status).toBe(200);
      expect(worker.requests.at(-1)?.tool_choice).toEqual(got);
    }
  });

  it('are answered as tool_calls, with no content beside them', async () => {
    worker.script = calling;
    const { json } = await chat({ tools: [weather, time] });
    expect(json.choices[0]).toMatchObject({
      finish_reason: 'tool_calls',
      message: {
        content: null,
        tool_calls: [
          {
            id: expect.stringMatching(/^call_/),
            type: 'function',
            function: { name: 'get_weather', arguments: '{"city":"Bern"}' },
          },
          {
            id: expect.stringMatching(/^call_/),
            type: 'function',
            function: { name: 'get_time', arguments: '{}' },
          },
        ],
      },
    });
    expect(json.usage.prompt_tokens_details.cached_tokens).toBe(2);
  });

  it('stream as deltas that the SDK puts together', async () => {
    worker.script = calling;
    const client = new OpenAI({ baseURL: await t.serve(), apiKey: t.alice.key, maxRetries: 0 });
    const stream = client.chat.completions.stream(ask({ tools: [weather, time] }) as never);
    const pieces: string[] = [];
    stream.on('tool_calls.function.arguments.delta', (event) => pieces.push(event.arguments_delta));
    const { choices } = await stream.finalChatCompletion();
    expect(pieces.filter((piece) => piece !== '')).toEqual(['{"city":', '"Bern"}', '{}']);
    expect(choices[0]?.finish_reason).toBe('tool_calls');
    const calls = choices[0]?.message.tool_calls as { id: string; function: object }[];
    expect(calls.map((call) => call.function)).toMatchObject([
      { name: 'get_weather', arguments: '{"city":"Bern"}', parsed_arguments: { city: 'Bern' } },
      { name: 'get_time', arguments: '{}' },
    ]);
    expect(new Set(calls.map(({ id }) => id)).size).toBe(2);
  });

  it('answer as function_call where the old functions were sent', async () => {
    worker.script = calling.filter((event) => !('call' in event) || event.call === 0);
    const functions = [{ name: 'get_weather', parameters }];
    const { json } = await chat({ functions, function_call: { name: 'get_weather' } });
    expect(worker.requests[0]?.tool_choice).toEqual({
      mode: 'required',
      names: ['get_weather'],
      parallel: false,
    });
    expect(json.choices[0]).toMatchObject({
      finish_reason: 'function_call',
      message: { content: null, function_call: { name: 'get_weather', arguments: '{"city":"Bern"}' } },
    });
    const client = new OpenAI({ baseURL: await t.serve(), apiKey: t.alice.key, maxRetries: 0 });
    const done = await client.chat.completions.stream(ask({ functions }) as never).finalChatCompletion();
    expect(done.choices[0]?.message.function_call).toEqual({
      name: 'get_weather',
      arguments: '{"city":"Bern"}',
    });
  });

  it('come back in as messages', async () => {
    const call = { id: 'call_1', type: 'function', function: { name: 'get_time', arguments: '{}' } };
    const messages = [
      { role: 'user', content: 'Time?' },
      { role: 'assistant', content: null, tool_calls: [call] },
      { role: 'tool', tool_call_id: 'call_1', content: '12:00' },
      { role: 'assistant', content: null, function_call: { name: 'get_time', arguments: '{}' } },
      { role: 'function', name: 'get_time', content: '12:01' },
    ];
    expect((await chat({ messages })).status).toBe(200);
    expect(worker.requests[0]?.messages).toEqual([
      { role: 'user', content: 'Time?' },
      { role: 'assistant', content: null, tool_calls: [call] },
      { role: 'tool', content: '12:00', tool_call_id: 'call_1' },
      { role: 'assistant', content: null, tool_calls: [{ ...call, id: 'call_0' }] },
      { role: 'tool', content: '12:01', name: 'get_time' },
    ]);
  });

  it('are refused by name where they cannot hold', async () => {
    const named = (name: string) => ({ type: 'function', function: { name } });
    const open = {
      ...weather,
      function: { ...weather.function, parameters: { type: 'object', properties: {} } },
    };
    const bad: [object, string, string][] = [
      [{ tools: [{ type: 'custom', custom: { name: 'x' } }] }, 'tools[0]', 'unsupported_value'],
      [{ tools: [named('a b')] }, 'tools[0].function.name', 'invalid_value'],
      [{ tools: [named('x'.repeat(65))] }, 'tools[0].function.name', 'string_above_max_length'],
      [{ tools: Array.from({ length: 129 }, (_, i) => named(`f${i}`)) }, 'tools', 'array_above_max_length'],
      [{ tools: [time, time] }, 'tools', 'invalid_value'],
      [{ tools: [time], tool_choice: named('nope') }, 'tool_choice', 'invalid_value'],
      [{ tool_choice: 'required' }, 'tool_choice', 'invalid_value'],
      [{ tools: [open] }, 'tools[0].function.parameters', 'invalid_json_schema'],
      [{ tools: [time], functions: [{ name: 'f' }] }, 'functions', 'conflicting_parameters'],
    ];
    for (const [extra, param, code] of bad) {
      const { status, json } = await chat(extra);
      expect([status, json.error.param, json.error.code]).toEqual([400, param, code]);
    }
    expect(worker.requests).toEqual([]);
  });
});

describe('response_format', () => {
  const format = (schema: object, strict: boolean | null = null) => ({
    response_format: { type: 'json_schema', json_schema: { name: 'answer', schema, strict } },
  });

  it('reaches the worker; text is no format', async () => {
    await chat({ response_format: { type: 'text' } });
    expect(worker.requests[0]).not.toHaveProperty('response_format');
    await chat({ response_format: { type: 'json_object' } });
    expect(worker.requests[1]?.response_format).toEqual({ type: 'json_object' });
    await chat(format(parameters, true));
    expect(worker.requests[2]?.response_format).toEqual({
      type: 'json_schema',
      schema: parameters,
      strict: true,
    });
  });

  it('is parsed by the SDK', async () => {
    worker.script = answerOf(['{"city":', '"Bern"}']);
    const client = new OpenAI({ baseURL: await t.serve(), apiKey: t.alice.key, maxRetries: 0 });
    const parsed = await client.chat.completions.parse(ask(format(parameters, true)) as never);
    expect(parsed.choices[0]?.message.parsed).toEqual({ city: 'Bern' });
  });

  it('refuses what it cannot promise, by the name of the keyword', async () => {
    const nested = (depth: number): object =>
      depth === 0 ? {} : { type: 'array', items: nested(depth - 1) };
    const bad: [object, string][] = [
      [format({ type: 'object', properties: { a: {} } }, true), "'additionalProperties' is required"],
      [format({ ...parameters, required: [] }, true), 'Missing "city"'],
      [format({ type: 'int' }), "'type' must be one of"],
      [format({ $ref: 'https://example.com/schema.json' }, true), "'$ref' must be a local reference"],
      [format({ $ref: '#' }), "'$ref' refers to itself"],
      [format({ type: 'object', patternProperties: {} }, true), "'patternProperties' is not supported"],
      [format({ type: 'array', items: { not: {} } }, true), "In context=('items'), 'not' is not supported"],
      [format({ type: 'string', pattern: '(?!a)b' }, true), "'pattern' has a look-around"],
      [format({ type: 'string', format: 'iri' }, true), '\'format\' "iri" is not supported'],
      [format({ type: 'string', maxLength: 1e9 }, true), "'maxLength' must not be more than"],
      [format({ enum: Array.from({ length: 1001 }, (_, i) => i) }), "'enum'"],
      [format(nested(9)), ''],
    ];
    for (const [extra, message] of bad.slice(0, -1)) {
      const { status, json } = await chat(extra);
      expect([status, json.error.param, json.error.code]).toEqual([
        400,
        'response_format',
        'invalid_json_schema',
      ]);
      expect(json.error.message).toContain(message);
    }
    expect(worker.requests).toEqual([]);
    expect((await chat(bad.at(-1)![0])).status).toBe(200);
  });

  it('binds as far as it can where it is not strict, and refuses only what is no schema', async () => {
    const loose = {
      type: 'object',
      properties: { tags: { type: 'array', items: { type: 'string', format: 'iri' }, uniqueItems: true } },
      patternProperties: { '^x-': {} },
      if: { required: ['tags'] },
      allOf: [{ minProperties: 1 }, { not: {} }],
    };
    for (const strict of [null, false]) {
      expect((await chat(format(loose, strict))).status).toBe(200);
      expect(worker.requests.at(-1)?.response_format).toEqual({
        ...{ type: 'json_schema', schema: loose, strict: false },
      });
    }
    const { status, json } = await chat(format(loose, true));
    expect([status, json.error.code, json.error.param]).toEqual([
      400,
      'invalid_json_schema',
      'response_format',
    ]);
  });

  it('is bounded together with the schemas of all tools, and so are they', async () => {
    const literal = { const: 'x'.repeat(100_000) };
    const tool = (_: unknown, i: number) => ({
      type: 'function',
      function: { name: `f${i}`, parameters: literal },
    });
    const many = await chat({ tools: Array.from({ length: 6 }, tool) });
    expect([many.status, many.json.error.param]).toEqual([400, 'tools[4].function.parameters']);
    const both = await chat({ tools: Array.from({ length: 4 }, tool), ...format(literal) });
    expect([both.status, both.json.error.param]).toEqual([400, 'response_format']);
    expect((await chat({ tools: Array.from({ length: 4 }, tool) })).status).toBe(200);
  });

  it('wants a name that OpenAI takes', async () => {
    const { json } = await chat({ response_format: { type: 'json_schema', json_schema: { name: 'a b' } } });
    expect(json.error.param).toBe('response_format.json_schema.name');
  });
});

describe('names of models', () => {
  it('are taken as they are, and percent-encoded', async () => {
    for (const model of [BASE_MODEL, encodeURIComponent(BASE_MODEL)])
      expect((await chat({ model })).status).toBe(200);
    expect((await chat({ model: '%zz' })).json.error.code).toBe('model_not_found');
  });
});

it('tells templates about reasoning only where it was asked', async () => {
  await chat();
  expect(worker.requests[0]).not.toHaveProperty('enable_thinking');
  await chat({ reasoning_effort: 'none' });
  await chat({ reasoning_effort: 'high' });
  expect(worker.requests.slice(1).map((request) => request.enable_thinking)).toEqual([false, true]);
});
