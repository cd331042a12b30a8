import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { workers } from '../../src/db/schema.ts';
import { chunkSchema } from '../../src/http/schemas/chat-answer.ts';
import { newId } from '../../src/ids.ts';
import type { GenerateEvent, WorkerError } from '../../src/inference/protocol.ts';
import { type Answer, BASE_MODEL, CONTEXT_LENGTH, useApp } from '../helpers/app.ts';
import { PLAIN_SAMPLING } from '../helpers/plain-sampling.ts';
import { addTunedModel } from './rows.ts';
import { answerOf, ScriptedWorker } from './scripted-worker.ts';

const t = useApp();
let worker: ScriptedWorker;

beforeEach(async () => {
  worker = await ScriptedWorker.start(t.database);
  worker.script = answerOf(['Hel', 'lo', '.']);
});
afterEach(() => worker.stop());

const ask = (extra: object = {}) => ({
  model: BASE_MODEL,
  messages: [{ role: 'user', content: 'Hi' }],
  ...extra,
});
const chat = (extra?: object) => t.call('POST', '/v1/chat/completions', { json: ask(extra) });

/** The data of an event stream: parsed chunks, and what was not JSON ("[DONE]"). */
function eventsOf(answer: Answer) {
  const data = answer.text
    .split('\n\n')
    .filter((block) => block.startsWith('data: '))
    .map((block) => block.slice(6));
  const chunks = data.filter((d) => d.startsWith('{')).map((d) => JSON.parse(d));
  for (const chunk of chunks) if (!chunk.error) expect(chunkSchema.parse(chunk)).toEqual(chunk);
  return { chunks, last: data.at(-1) };
}

describe('a plain completion', () => {
  it("has OpenAI's shape", async () => {
    const answer = await chat();
    expect(answer.status).toBe(200);
    expect(answer.json).toEqual({
      id: expect.stringMatching(/^chatcmpl-[0-9A-Za-z]{24}$/),
      object: 'chat.completion',
      created: expect.any(Number),
      model: BASE_MODEL,
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: 'Hello.', refusal: null, annotations: [] },
          logprobs: null,
          finish_reason: 'stop',
        },
      ],
      usage: {
        prompt_tokens: 7,
        completion_tokens: 3,
        total_tokens: 10,
        prompt_tokens_details: { cached_tokens: 0, audio_tokens: 0 },
        completion_tokens_details: {
          reasoning_tokens: 0,
          audio_tokens: 0,
          accepted_prediction_tokens: 0,
          rejected_prediction_tokens: 0,
        },
      },
      service_tier: 'default',
      system_fingerprint: expect.stringMatching(/^fp_[0-9a-f]{10}$/),
    });
  });

  it('sends every parameter to the worker, and defaults for the absent ones', async () => {
    await chat();
    expect(worker.requests[0]).toEqual({
      request_id: expect.stringMatching(/^chatcmpl-/),
      base_model: BASE_MODEL,
      adapter: null,
      cache_owner: t.alice.projectId,
      messages: [{ role: 'user', content: 'Hi' }],
      tools: null,
      sampling: PLAIN_SAMPLING,
    });
    worker.script = answerOf(['x'], { n: 2 });
    await chat({
      max_completion_tokens: 10_000_000,
      temperature: 0,
      top_p: 0.5,
      n: 2,
      stop: 'END',
      seed: 42,
      logprobs: true,
      top_logprobs: 3,
      presence_penalty: 1,
      frequency_penalty: -1,
      logit_bias: { 5: -100 },
    });
    expect(worker.requests[1]?.sampling).toEqual({
      max_tokens: CONTEXT_LENGTH,
      temperature: 0,
      top_p: 0.5,
      n: 2,
      stop: ['END'],
      seed: 42,
      logprobs: true,
      top_logprobs: 3,
      presence_penalty: 1,
      frequency_penalty: -1,
      logit_bias: { 5: -100 },
    });
  });

  it('hands over messages as templates know them', async () => {
    await chat({
      messages: [
        {
          role: 'developer',
          content: [
            { type: 'text', text: 'Be ' },
            { type: 'text', text: 'brief.' },
          ],
        },
        { role: 'user', content: 'a', name: 'Ann' },
        {
          role: 'assistant',
          content: null,
          tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'f', arguments: '{}' } }],
          refusal: null,
          annotations: [],
        },
        { role: 'tool', content: '4', tool_call_id: 'call_1' },
        { role: 'assistant', content: [{ type: 'text', text: 'Four' }] },
        {
          role: 'assistant',
          content: '!',
          ...{ tool_calls: null, function_call: null, refusal: null, annotations: null, audio: null },
        },
        { role: 'user', content: 'b' },
      ],
    });
    expect(worker.requests[0]?.messages).toEqual([
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'a', name: 'Ann' },
      {
        role: 'assistant',
        content: null,
        tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'f', arguments: '{}' } }],
      },
      { role: 'tool', content: '4', tool_call_id: 'call_1' },
      { role: 'assistant', content: 'Four' },
      { role: 'assistant', content: '!' },
      { role: 'user', content: 'b' },
    ]);
  });

  it('has n choices, each with its log probabilities and reason', async () => {
    worker.script = [
      ...answerOf(['a', 'b'], { n: 2 }).filter((event) => event.type !== 'finish' && event.type !== 'done'),
      { type: 'finish', index: 1, reason: 'length' },
      { type: 'finish', index: 0, reason: 'stop' },
      { type: 'done', prompt_tokens: 7, completion_tokens: 4, cached_tokens: 5 },
    ];
    const answer = await chat({ n: 2, logprobs: true, top_logprobs: 1 });
    expect(answer.json.choices.map((c: { finish_reason: string }) => c.finish_reason)).toEqual([
      'stop',
      'length',
    ]);
    expect(answer.json.choices[1].message.content).toBe('ab');
    expect(answer.json.choices[1].logprobs).toEqual({
      content: ['a', 'b'].map((token) => ({
        token,
        logprob: -0.5,
        bytes: [...Buffer.from(token)],
        top_logprobs: [{ token, logprob: -0.5, bytes: [...Buffer.from(token)] }],
      })),
      refusal: null,
    });
    expect(answer.json.usage.prompt_tokens_details.cached_tokens).toBe(5);
  });

  it('ignores what does not concern a text model of its own, and refuses what it cannot do', async () => {
    const ignored = await chat({
      user: 'u',
      safety_identifier: 's',
      metadata: { a: 'b' },
      store: true,
      service_tier: 'flex',
      prompt_cache_key: 'k',
      reasoning_effort: 'low',
      verbosity: 'high',
      parallel_tool_calls: true,
      response_format: { type: 'text' },
      tool_choice: 'none',
      tools: null,
      modalities: ['text'],
    });
    expect([ignored.status, ignored.json.service_tier]).toEqual([200, 'default']);
  });
});

describe('a streamed completion', () => {
  it('sends the role, the text, the reason and [DONE]', async () => {
    const answer = await chat({ stream: true });
    expect(answer.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
    const { chunks, last } = eventsOf(answer);
    expect(last).toBe('[DONE]');
    expect(chunks.map((chunk) => chunk.choices)).toEqual([
      [
        {
          index: 0,
          delta: { role: 'assistant', content: '', refusal: null },
          logprobs: null,
          finish_reason: null,
        },
      ],
      ...['Hel', 'lo', '.'].map((content) => [
        { index: 0, delta: { content }, logprobs: null, finish_reason: null },
      ]),
      [{ index: 0, delta: {}, logprobs: null, finish_reason: 'stop' }],
    ]);
    for (const chunk of chunks) {
      expect(chunk).toMatchObject({
        id: chunks[0].id,
        created: chunks[0].created,
        object: 'chat.completion.chunk',
        model: BASE_MODEL,
      });
      expect(chunk).not.toHaveProperty('usage');
    }
  });

  it('ends with the usage when asked, null before', async () => {
    const { chunks, last } = eventsOf(await chat({ stream: true, stream_options: { include_usage: true } }));
    expect(last).toBe('[DONE]');
    expect(chunks.slice(0, -1).every((chunk) => chunk.usage === null)).toBe(true);
    expect(chunks.at(-1)).toMatchObject({
      choices: [],
      usage: { prompt_tokens: 7, completion_tokens: 3, total_tokens: 10 },
    });
  });

  it('sends log probabilities and several choices', async () => {
    worker.script = answerOf(['a'], { n: 2 });
    const { chunks } = eventsOf(await chat({ stream: true, n: 2, logprobs: true }));
    expect(chunks.map((chunk) => chunk.choices[0].index)).toEqual([0, 1, 0, 1, 0, 1]);
    expect(chunks[2].choices[0].logprobs.content[0]).toMatchObject({ token: 'a', logprob: -0.5 });
  });

  it('turns a failure on the way into one error event and no [DONE]', async () => {
    worker.script = [...answerOf(['a', 'b']).slice(0, 2), 20, 'break'];
    const lost = eventsOf(await chat({ stream: true }));
    expect(lost.chunks.at(-1)).toEqual({
      error: {
        message: expect.stringContaining('lost'),
        type: 'server_error',
        param: null,
        code: 'worker_lost',
      },
    });
    expect(lost.last).not.toBe('[DONE]');

    const error: WorkerError = {
      status: 500,
      type: 'server_error',
      code: 'out_of_memory',
      param: null,
      message: 'No memory.',
    };
    worker.script = [...answerOf(['a', 'b']).slice(0, 2), { type: 'error', error }];
    const failed = eventsOf(await chat({ stream: true }));
    expect(failed.chunks.at(-1).error).toMatchObject({ code: 'out_of_memory', message: 'No memory.' });
  });
});

describe('over a real port', () => {
  const post = async (body: object, signal?: AbortSignal) =>
    fetch(`${await t.serve()}/chat/completions`, {
      method: 'POST',
      headers: { authorization: `Bearer ${t.alice.key}`, 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal,
    });
  const until = async (condition: () => boolean) => {
    const end = performance.now() + 3_000;
    while (!condition() && performance.now() < end) await sleep(10);
    expect(condition()).toBe(true);
  };
  const endless = () => [
    ...answerOf(['a']).slice(0, 2),
    ...Array.from({ length: 200 }, () => [
      20,
      { type: 'delta', index: 0, text: 'b', tokens: [] } as GenerateEvent,
    ]).flat(),
  ];

  it.each([true, false])('stops the worker when the client leaves (stream: %s)', async (stream) => {
    worker.script = endless();
    const leave = new AbortController();
    const answer = post(ask({ stream }), leave.signal);
    if (stream) await (await answer).body?.getReader().read();
    else await until(() => worker.requests.length === 1);
    leave.abort();
    await answer.catch(() => {});
    await until(() => worker.left === 1);
    expect(t.logged.filter((line) => line.includes('"level":50'))).toEqual([]);
  });

  it('slows the worker down to the pace of the reader', { timeout: 60_000 }, async () => {
    const big: GenerateEvent = { type: 'delta', index: 0, text: 'x'.repeat(1_000_000), tokens: [] };
    worker.script = [
      ...answerOf(['a']).slice(0, 2),
      ...Array.from({ length: 40 }, () => big),
      ...answerOf([]).slice(1),
    ];
    const response = await post(ask({ stream: true }));
    await until(() => worker.unread > 0);
    expect(worker.left).toBe(0);
    let bytes = 0;
    for await (const chunk of response.body ?? []) bytes += chunk.byteLength;
    expect(bytes).toBeGreaterThan(40_000_000);
  });
});

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
      worker.script = [...(Array.isArray(script) ? script : [])];
      if (!Array.isArray(script)) worker.script = script as WorkerError;
      for (let i = 0; i < 4; i++) expect((await chat()).json.choices[0].message.content).toBe('second');
    }
    expect(worker.requests.length).toBeGreaterThan(0);
    await second.stop();
  });

  it('is never another one after the first token', async () => {
    const second = await ScriptedWorker.start(t.database);
    for (const each of [worker, second]) each.script = [...answerOf(['a', 'b']).slice(0, 2), 20, 'break'];
    const answer = await chat();
    expect([answer.status, answer.json.error.code]).toEqual([503, 'worker_lost']);
    expect(worker.requests.length + second.requests.length).toBe(1);
    await second.stop();
  });

  it('passes on why it refuses', async () => {
    worker.script = refusal(429);
    const busy = await chat();
    expect([busy.status, busy.headers.get('retry-after'), busy.json.error]).toEqual([
      429,
      '9',
      { message: 'No.', type: 'x_error', param: 'messages', code: 'x' },
    ]);
    worker.script = refusal(400);
    expect((await chat({ stream: true })).status).toBe(400);
  });

  it('is none without one that is ready, alive and holds the model', async () => {
    await worker.stop();
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

describe('which model answers', () => {
  it('is the tuned one, by its adapter', async () => {
    const model = await addTunedModel(t, t.alice, { tail: 'aaaaaaaa', step: 30 });
    const answer = await chat({ model: model.id });
    expect(answer.json.model).toBe(model.id);
    expect(answer.json.system_fingerprint).not.toBe((await chat()).json.system_fingerprint);
    expect(worker.requests[0]).toMatchObject({
      base_model: BASE_MODEL,
      adapter: {
        model_id: model.id,
        digest: model.digest,
        storage_prefix: model.storagePrefix,
        files: model.files,
      },
    });
  });

  it.each(['nothing', 'ft:nothing:acme::00000000'])('is none for the unknown name %s', async (name) => {
    const answer = await chat({ model: name });
    expect([answer.status, answer.json.error]).toEqual([
      404,
      {
        message: `The model '${name}' does not exist`,
        type: 'invalid_request_error',
        param: 'model',
        code: 'model_not_found',
      },
    ]);
  });

  it('is none for a model of another project', async () => {
    const foreign = await addTunedModel(t, t.bob, { tail: 'bbbbbbbb' });
    expect((await chat({ model: foreign.id })).status).toBe(404);
    expect(worker.requests).toEqual([]);
  });

  it('refuses what cannot fit before it asks a worker', async () => {
    const answer = await chat({ messages: [{ role: 'user', content: 'x'.repeat(16 * CONTEXT_LENGTH + 1) }] });
    expect([answer.status, answer.json.error.code]).toEqual([400, 'context_length_exceeded']);
    expect(worker.requests).toEqual([]);
  });
});
