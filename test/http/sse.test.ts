import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { Completion } from '../../src/domain/chat/complete.ts';
import { modelUnavailable, serverError } from '../../src/errors.ts';
import { completionChunks } from '../../src/http/chat-objects.ts';
import { eventStream, settledWithin } from '../../src/http/sse.ts';
import { answerOf } from './scripted-worker.ts';

async function* slowly(texts: string[], milliseconds: number): AsyncGenerator<string, void> {
  for (const text of texts) {
    await sleep(milliseconds);
    yield text;
  }
}

describe('eventStream', () => {
  it('writes each text as one event', async () => {
    const response = eventStream(slowly(['a', 'b'], 0), () => {});
    expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
    expect(await response.text()).toBe('data: a\n\ndata: b\n\n');
  });

  it('keeps the connection alive while there is nothing to say', async () => {
    const text = await eventStream(slowly(['a'], 1_000), () => {}, 20).text();
    expect(text).toMatch(/^(: keep-alive\n\n)+data: a\n\n$/);
  });

  it('tells when the reader leaves, and ends the source', async () => {
    let [left, ended] = [0, false];
    const source = (async function* () {
      try {
        for (;;) yield 'x';
      } finally {
        ended = true;
      }
    })();
    const reader = eventStream(source, () => {
      left += 1;
    }).body!.getReader();
    await reader.read();
    await reader.cancel();
    expect([left, ended]).toEqual([1, true]);
  });

  it('reads no further ahead than its reader', async () => {
    let made = 0;
    const source = (async function* () {
      for (;;) {
        made += 1;
        yield 'x';
      }
    })();
    const reader = eventStream(source, () => {}).body!.getReader();
    await reader.read();
    await sleep(20);
    expect(made).toBeLessThan(5);
    await reader.cancel();
  });
});

describe('a stream that waits for its turn', () => {
  const options = { n: 1, logprobs: false, includeUsage: false, onFailure: () => serverError('req_x') };
  const events = async function* () {
    yield* answerOf(['ok']);
  };
  const completion: Completion = {
    id: 'chatcmpl-1',
    model: 'm',
    created: new Date(0),
    fingerprint: 'fp_1',
    events: events(),
  };

  it('is kept alive, then answers', async () => {
    const starting = sleep(100, completion);
    await settledWithin(starting, 10);
    const text = await eventStream(
      completionChunks(starting, options, new AbortController().signal),
      () => {},
      20,
    ).text();
    expect(text).toMatch(/^(: keep-alive\n\n)+data: \{"id":"chatcmpl-1"/);
    expect(text).toMatch(/"content":"ok".*data: \[DONE\]\n\n$/s);
  });

  it('fails with a status in time, with an event after it', async () => {
    const failing = (after: number) =>
      sleep(after).then(() => Promise.reject(modelUnavailable('m', 'gone.', 1)));
    await expect(settledWithin(failing(1), 1_000)).rejects.toMatchObject({ status: 503 });
    const late = failing(50);
    await settledWithin(late, 1);
    const error = { ...options, onFailure: (e: unknown) => e as ReturnType<typeof serverError> };
    const text = await eventStream(
      completionChunks(late, error, new AbortController().signal),
      () => {},
    ).text();
    expect(JSON.parse(text.replace('data: ', '')).error.code).toBe('model_unavailable');
  });

  it('ends silently when the client has left', async () => {
    const leave = new AbortController();
    leave.abort();
    const gone = Promise.reject(leave.signal.reason);
    const first = await completionChunks(gone, options, leave.signal).next();
    expect(first).toEqual({ done: true, value: undefined });
  });
});
