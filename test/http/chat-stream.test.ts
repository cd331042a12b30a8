/** Streamed chat completions: chunks, usage, failures on the way, and clients that leave or read slowly. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { GenerateEvent, WorkerError } from '../../src/inference/protocol.ts';
import { BASE_MODEL } from '../helpers/app.ts';
import { ask, eventsOf, useChat } from './chat-service.ts';
import { answerOf } from './scripted-worker.ts';

const { t, there, chat } = useChat();

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
    there.worker.script = answerOf(['a'], { n: 2 });
    const { chunks } = eventsOf(await chat({ stream: true, n: 2, logprobs: true }));
    expect(chunks.map((chunk) => chunk.choices[0].index)).toEqual([0, 1, 0, 1, 0, 1]);
    expect(chunks[2].choices[0].logprobs.content[0]).toMatchObject({ token: 'a', logprob: -0.5 });
  });

  it('turns a failure on the way into one error event and no [DONE]', async () => {
    there.worker.script = [...answerOf(['a', 'b']).slice(0, 2), 20, 'break'];
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
    there.worker.script = [...answerOf(['a', 'b']).slice(0, 2), { type: 'error', error }];
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
    there.worker.script = endless();
    const leave = new AbortController();
    const answer = post(ask({ stream }), leave.signal);
    if (stream) await (await answer).body?.getReader().read();
    else await until(() => there.worker.requests.length === 1);
    leave.abort();
    await answer.catch(() => {});
    await until(() => there.worker.left === 1);
    expect(t.logged.filter((line) => line.includes('"level":50'))).toEqual([]);
  });

  it('slows the worker down to the pace of the reader', { timeout: 60_000 }, async () => {
    const big: GenerateEvent = { type: 'delta', index: 0, text: 'x'.repeat(1_000_000), tokens: [] };
    there.worker.script = [
      ...answerOf(['a']).slice(0, 2),
      ...Array.from({ length: 40 }, () => big),
      ...answerOf([]).slice(1),
    ];
    const response = await post(ask({ stream: true }));
    await until(() => there.worker.unread > 0);
    expect(there.worker.left).toBe(0);
    let bytes = 0;
    for await (const chunk of response.body ?? []) bytes += chunk.byteLength;
    expect(bytes).toBeGreaterThan(40_000_000);
  });
});
