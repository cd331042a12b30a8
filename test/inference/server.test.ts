/** HTTP of the worker over a scripted engine: token, validation, queue bound, back-pressure, disconnect, drain. */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { WorkerError } from '../../src/inference/protocol.ts';
import { Admission } from '../../workers/inference/admission.ts';
import { body, delta, doneEvent, errorOf, eventsOf, start, startEvent, TOKEN } from './scripted-server.ts';

/** A client that sends a whole request and takes nothing of the answer. */
function askAndNeverRead(port: number): Socket {
  const text = JSON.stringify(body());
  const head = `host: x\r\nauthorization: Bearer ${TOKEN}\r\ncontent-length: ${text.length}`;
  const socket = connect(port, '127.0.0.1');
  socket.pause();
  socket.write(`POST /generate HTTP/1.1\r\n${head}\r\n\r\n${text}`);
  return socket;
}

describe('inference server', () => {
  it('streams the events of a generation as lines of JSON', async () => {
    const { post, asked } = await start();
    const answer = post(body({ seed: 5 }));
    const { request, emit } = await asked(1);
    expect([...request.prompt]).toEqual([0, 1, 2]);
    expect(request).toMatchObject({ adapter: null, seed: 5 });
    emit(startEvent);
    const response = await answer;
    expect(response.status).toBe(200);
    expect(response.headers.get('content-type')).toContain('application/x-ndjson');
    emit(delta('hé'));
    emit(doneEvent);
    expect(eventsOf(await response.text())).toEqual([startEvent, delta('hé'), doneEvent]);
  });

  it('lets prompts be shared by one owner only', async () => {
    const { post, asked } = await start({
      admission: new Admission({ maxRunning: 3, maxWaiting: 1, maxWaitingTokens: 1000 }),
    });
    const salts: string[] = [];
    for (const [i, owner] of ['proj_a', 'proj_a', 'proj_b'].entries()) {
      const answer = post({ ...body(), cache_owner: owner });
      const { request, emit } = await asked(i + 1);
      salts.push(request.cacheSalt);
      emit(startEvent);
      emit(doneEvent);
      await (await answer).text();
    }
    expect(salts[1]).toBe(salts[0]);
    expect(salts[2]).not.toBe(salts[0]);
  });

  it('lets nobody in without the token', async () => {
    const { url, headers, health } = await start();
    for (const authorization of ['', 'Bearer', `Bearer ${TOKEN}x`, `bearer ${TOKEN}`, TOKEN]) {
      const response = await fetch(`${url}/health`, { headers: { authorization } });
      expect(response.status).toBe(401);
      expect(await errorOf(response)).toMatchObject({ code: 'invalid_api_key' });
    }
    expect(await health()).toEqual({
      state: 'ready',
      base_model: 'base',
      device: 'cpu',
      running: 0,
      waiting: 0,
      adapters: ['d'],
    });
    expect((await fetch(`${url}/generate`, { headers })).status).toBe(405);
    expect((await fetch(`${url}/nothing`, { headers })).status).toBe(404);
  });

  it('refuses bad requests by name before anything is spent on them', async () => {
    const { post, rendered } = await start();
    const cases: [unknown, string | null][] = [
      ['{', null],
      [[], null],
      [{ ...body(), extra: 1 }, null],
      [{ ...body(), messages: [] }, 'messages'],
      [{ ...body(), messages: [{ role: 'user', content: '\ud800' }] }, 'messages.0.content'],
      [body({ temperature: 3 }), 'sampling.temperature'],
      [JSON.stringify(body()).replace('"top_p":1', '"top_p":1e999'), 'sampling.top_p'],
      [body({ max_tokens: 0 }), 'sampling.max_tokens'],
      [body({ n: 1.5 }), 'sampling.n'],
      [body({ stop: [''] }), 'sampling.stop.0'],
      [body({ stop: ['1', '2', '3', '4', '5'] }), 'sampling.stop'],
      [body({ top_logprobs: 21 }), 'sampling.top_logprobs'],
      [body({ logit_bias: { x: 1 } }), 'sampling.logit_bias.x'],
      [body({ logit_bias: { '1': 101 } }), 'sampling.logit_bias.1'],
      [body({ logit_bias: { '100': 1 } }), 'logit_bias.100'],
      [{ ...body(), adapter: { ...body({ adapter: true }).adapter, digest: '../x' } }, 'adapter.digest'],
    ];
    for (const [bad, param] of cases) {
      const response = await post(bad);
      expect(response.status, String(param)).toBe(400);
      expect((await errorOf(response)).param).toBe(param);
    }
    const foreign = await post({ ...body(), base_model: 'other' });
    expect([foreign.status, (await errorOf(foreign)).code]).toEqual([404, 'model_not_found']);
    expect(rendered).toEqual([]);
  });

  it('refuses a body over the limit without reading all of it', async () => {
    const { post } = await start();
    const response = await post(body({ content: 'x'.repeat(200_000) }));
    expect([response.status, (await errorOf(response)).code]).toEqual([400, 'payload_too_large']);
  });

  it('says how long the prompt is and how long it may be', async () => {
    const { post, rendered, requests } = await start();
    for (const [words, ok] of [
      [49, true],
      [50, false],
      [120, false],
    ] as const) {
      const answer = post(body({ content: Array(words).fill('w').join(' ') }));
      if (ok) {
        while (requests.length === 0) await sleep(2);
        requests[0]!.emit(startEvent);
        requests[0]!.emit(doneEvent);
      }
      const response = await answer;
      if (ok) {
        expect(response.status).toBe(200);
        await response.text();
        continue;
      }
      const error = await errorOf(response);
      expect(error).toMatchObject({ status: 400, code: 'context_length_exceeded', param: 'messages' });
      expect(error.message).toContain('maximum context length is 50 tokens');
      expect(error.message).toContain(`resulted in ${words} tokens`);
    }
    const before = rendered.length;
    const huge = await errorOf(await post(body({ content: 'w '.repeat(401) })));
    expect(huge).toMatchObject({ status: 400, code: 'context_length_exceeded' });
    expect(huge.message).toMatch(/50 tokens.*806 bytes/);
    expect(rendered).toHaveLength(before);
  });

  it('answers 429 with a time at once when the queue is full, and takes the next when it is not', async () => {
    const { post, asked, rendered, requests } = await start();
    const first = post(body());
    const second = post(body());
    await asked(2);
    const refused = await post(body());
    expect(refused.status).toBe(429);
    expect(refused.headers.get('retry-after')).toBe('1');
    expect(await errorOf(refused)).toMatchObject({ code: 'rate_limit_exceeded', retry_after_seconds: 1 });
    expect(rendered).toHaveLength(2); // refused before its text was touched
    for (const { emit } of requests) {
      emit(startEvent);
      emit(doneEvent);
    }
    for (const answer of [first, second]) await (await answer).text();
    const third = post(body());
    (await asked(3)).emit(startEvent);
    expect((await third).status).toBe(200);
  });

  it('answers 503 for an adapter whose files cannot be had, and passes engine errors on', async () => {
    const { post, asked } = await start();
    const response = await post(body({ adapter: true }));
    expect(response.status).toBe(503);
    expect(await errorOf(response)).toMatchObject({ code: 'model_unavailable', retry_after_seconds: 30 });
    const answer = post(body());
    const error: WorkerError = {
      status: 503,
      type: 't',
      code: 'c',
      param: null,
      message: 'm',
      retry_after_seconds: 2,
    };
    (await asked(1)).emit({ type: 'error', error });
    const refused = await answer;
    expect([refused.status, await errorOf(refused)]).toEqual([503, error]);
  });

  it('cancels the generation when the client leaves, before and after its start', async () => {
    const { post, asked } = await start();
    for (const [i, started] of [false, true].entries()) {
      const leave = new AbortController();
      const answer = post(body(), leave.signal);
      const running = await asked(i + 1);
      if (started) running.emit(startEvent);
      if (started) await answer;
      leave.abort();
      await answer.then(
        () => undefined,
        () => undefined,
      );
      while (!running.cancelled) await sleep(2);
    }
    const next = post(body());
    (await asked(3)).emit(startEvent); // the places were given back
    expect((await next).status).toBe(200);
  });

  it('gives up a reader that takes nothing, in bounded memory, while others go on', async () => {
    const { port, asked, post } = await start({
      admission: new Admission({ maxRunning: 4, maxWaiting: 4, maxWaitingTokens: 1000 }),
    });
    const socket = askAndNeverRead(port);
    const slow = await asked(1);
    const answer = post(body());
    const fast = await asked(2);
    slow.emit(startEvent);
    fast.emit(startEvent);
    const response = await answer;
    let sent = 0;
    while (!slow.cancelled) {
      slow.emit(delta('x'.repeat(20_000)));
      sent += 20_000;
      if (sent > 50_000_000) throw new Error('a reader that never reads was never given up');
      if (sent % 200_000 === 0) await sleep(1);
    }
    fast.emit(delta('still here'));
    fast.emit(doneEvent);
    expect(await response.text()).toContain('still here');
    socket.destroy();
  });

  it('gives up a reader whose full buffer does not move for too long', async () => {
    const { port, asked } = await start({
      stream: { maxBufferedBytes: 100_000_000, stallMilliseconds: 50 },
    });
    const socket = askAndNeverRead(port);
    const slow = await asked(1);
    slow.emit(startEvent);
    slow.emit(delta('x'.repeat(20_000_000)));
    while (!slow.cancelled) await sleep(5);
    socket.destroy();
  });

  it('drains: answers new work 503, lets running work end, then closes', async () => {
    const { server, post, asked, health, url, headers } = await start();
    const answer = post(body());
    const running = await asked(1);
    running.emit(startEvent);
    const response = await answer;
    const drained = server.drain(5000);
    expect((await health()).state).toBe('draining');
    const refused = await post(body());
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '1']);
    expect(await errorOf(refused)).toMatchObject({ code: 'server_is_overloaded', retry_after_seconds: 1 });
    running.emit(delta('to the end'));
    running.emit(doneEvent);
    expect(await response.text()).toContain('to the end');
    expect(await drained).toBe(0);
    await expect(fetch(`${url}/health`, { headers })).rejects.toThrow(); // closed
  });

  it('ends what does not finish in time with an error event, never with a silent cut', async () => {
    const { server, post, asked } = await start();
    const answer = post(body());
    const running = await asked(1);
    running.emit(startEvent);
    const response = await answer;
    expect(await server.drain(30)).toBe(1);
    expect(eventsOf(await response.text()).at(-1)).toMatchObject({ type: 'error', error: { status: 503 } });
    expect(running.cancelled).toBe(true);
  });
});
