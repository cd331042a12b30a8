/** Events of a job as a stream: replay, live, resumption, the end, slow readers, many readers on one poller. */
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, vi } from 'vitest';
import { EventFeed } from '../../src/domain/jobs/event-feed.ts';
import { followJob } from '../../src/domain/jobs/follow.ts';
import { transition } from '../../src/domain/jobs/states.ts';
import { insertEvents, message } from '../../src/queue/sql.ts';
import { useApp } from '../helpers/app.ts';
import { addJob, jobRow } from './rows.ts';

const t = useApp();

const add = (id: string, ...texts: string[]) =>
  insertEvents(
    t.database.db,
    { jobId: id },
    texts.map((text) => message('info', text)),
  );
const end = (id: string, text = 'The end') =>
  t.database.transaction(async (tx) => {
    await insertEvents(tx, { jobId: id }, [message('info', text)]);
    await transition(tx, id, 'failed', null);
  });

interface Told {
  id: string | null;
  data: string;
}

/** Opens the stream and parses it as a browser does. */
async function open(
  id: string,
  options: { query?: string; headers?: Record<string, string>; key?: string } = {},
) {
  const { query = '?stream=true', headers = {}, key = t.alice.key } = options;
  const leave = new AbortController();
  const response = await t.app.request(`/v1/fine_tuning/jobs/${id}/events${query}`, {
    headers: { authorization: `Bearer ${key}`, ...headers },
    signal: leave.signal,
  });
  const reader = response.body?.getReader();
  let text = '';
  const told: Told[] = [];
  const read = async (): Promise<boolean> => {
    const { done, value } = await reader!.read();
    if (done) return false;
    text += Buffer.from(value).toString('utf8');
    for (let at = text.indexOf('\n\n'); at >= 0; at = text.indexOf('\n\n')) {
      const block = text.slice(0, at);
      text = text.slice(at + 2);
      if (block.startsWith(':')) continue;
      told.push({ id: /^id: (.*)$/m.exec(block)?.[1] ?? null, data: /^data: (.*)$/m.exec(block)![1]! });
    }
    return true;
  };
  return {
    response,
    told,
    messages: () => told.map(({ data }) => (data === '[DONE]' ? data : JSON.parse(data).message)),
    until: async (count: number) => {
      while (told.length < count && (await read()));
    },
    whole: async () => {
      while (await read());
    },
    leave: () => reader?.cancel(),
  };
}

describe('a stream of events', () => {
  it('replays from the first, follows live, and ends after the last event of the job', async () => {
    const id = await addJob(t, t.alice);
    await add(id, 'one', 'two');
    const stream = await open(id);
    expect([stream.response.status, stream.response.headers.get('content-type')]).toEqual([
      200,
      'text/event-stream; charset=utf-8',
    ]);
    await stream.until(3);
    await add(id, 'three');
    await stream.until(4);
    await add(id, 'four', 'five');
    await end(id);
    await stream.whole();
    expect(stream.messages()).toEqual([
      `Created fine-tuning job: ${id}`,
      ...['one', 'two', 'three', 'four', 'five', 'The end', '[DONE]'],
    ]);
    const listed = await t.call('GET', `/v1/fine_tuning/jobs/${id}/events?limit=100`);
    expect(stream.told.slice(0, -1).map(({ data }) => JSON.parse(data))).toEqual(
      listed.json.data.toReversed(),
    );
    expect(stream.told.slice(0, -1).map((each) => each.id)).toEqual(
      listed.json.data.map((event: { id: string }) => event.id).toReversed(),
    );
  });

  it('continues after Last-Event-ID or after=, also by Accept, and answers 204 when there is nothing left', async () => {
    const id = await addJob(t, t.alice);
    await add(id, 'one', 'two');
    await end(id);
    const { json } = await t.call('GET', `/v1/fine_tuning/jobs/${id}/events`);
    const idOf = (text: string) => json.data.find((e: { message: string }) => e.message === text).id;
    const ways: Parameters<typeof open>[1][] = [
      { headers: { 'last-event-id': idOf('one') } },
      { query: `?stream=true&after=${idOf('one')}` },
      { query: '', headers: { accept: 'text/event-stream', 'last-event-id': idOf('one') } },
    ];
    for (const options of ways) {
      const stream = await open(id, options);
      await stream.whole();
      expect(stream.messages()).toEqual(['two', 'The end', '[DONE]']);
    }
    const again = await open(id, { headers: { 'last-event-id': idOf('The end') } });
    expect(again.response.status).toBe(204);
    const unknown = await t.call('GET', `/v1/fine_tuning/jobs/${id}/events?stream=true`, {
      headers: { 'last-event-id': 'ftevent-none' },
    });
    expect([unknown.status, unknown.json.error.param]).toEqual([400, 'after']);
    expect((await open(id, { key: t.bob.key })).response.status).toBe(404);
    expect((await t.call('GET', `/v1/fine_tuning/jobs/${id}/events?stream=maybe`)).json.error.param).toBe(
      'stream',
    );
  });

  it('goes on through a pause', async () => {
    const id = await addJob(t, t.alice);
    const stream = await open(id);
    await t.call('POST', `/v1/fine_tuning/jobs/${id}/pause`);
    await t.call('POST', `/v1/fine_tuning/jobs/${id}/resume`);
    await end(id);
    await stream.whole();
    expect(stream.messages().slice(1)).toEqual([
      'Fine-tuning job paused',
      'Fine-tuning job resumed, moving job to queued state',
      'The end',
      '[DONE]',
    ]);
  });

  it('gives each of many readers everything, in order, with one poller for all', async () => {
    const ids = [await addJob(t, t.alice), await addJob(t, t.alice)];
    const streams = await Promise.all(Array.from({ length: 40 }, (_, i) => open(ids[i % 2]!)));
    for (let i = 0; i < 30; i += 1) {
      for (const id of ids) await add(id, `event ${i}`);
      await sleep(5);
    }
    for (const id of ids) await end(id);
    await Promise.all(streams.map((stream) => stream.whole()));
    const expected = [...Array.from({ length: 30 }, (_, i) => `event ${i}`), 'The end', '[DONE]'];
    for (const stream of streams) expect(stream.messages().slice(1)).toEqual(expected);
  });

  it('a reader that does not read costs a bounded queue and loses nothing', async () => {
    const id = await addJob(t, t.alice);
    const stream = await open(id);
    await stream.until(1);
    for (let i = 0; i < 30; i += 1) {
      await add(id, ...Array.from({ length: 40 }, (_, k) => `event ${i * 40 + k}`));
      await sleep(15);
    }
    await end(id);
    await stream.whole();
    expect(stream.messages().slice(1)).toEqual([
      ...Array.from({ length: 1200 }, (_, i) => `event ${i}`),
      'The end',
      '[DONE]',
    ]);
  });

  it('events written while the replay is read come once, whatever the moment', async () => {
    for (let round = 0; round < 15; round += 1) {
      const id = await addJob(t, t.alice);
      await add(id, ...Array.from({ length: 250 }, (_, i) => `old ${i}`));
      const stream = await open(id);
      const writing = (async () => {
        for (let i = 0; i < 10; i += 1) await add(id, `new ${i}`);
        await end(id);
      })();
      await stream.whole();
      await writing;
      const { length } = stream.told;
      expect([round, length, new Set(stream.told.map((each) => each.id)).size]).toEqual([round, 263, 263]);
    }
  });
});

describe('the feed', () => {
  it('stops asking when the last reader has left, and ends its readers when the process leaves', async () => {
    const id = await addJob(t, t.alice);
    const feed = new EventFeed(t.database, t.log);
    const told = { onEvents: vi.fn(), onEnd: vi.fn() };
    const leave = feed.follow(await jobRow(t, id), told);
    await add(id, 'heard');
    await vi.waitFor(() => expect(told.onEvents).toHaveBeenCalledTimes(1));
    leave();
    const execute = vi.spyOn(t.database.db, 'execute');
    await sleep(100);
    const asked = execute.mock.calls.length;
    await sleep(400);
    expect(execute.mock.calls.length).toBe(asked);
    execute.mockRestore();
    feed.follow(await jobRow(t, id), told);
    feed.close();
    expect(told.onEnd).toHaveBeenCalledWith(-1);
  });

  it('a reader of a job that has ended takes nothing from one that came later', async () => {
    const id = await addJob(t, t.alice);
    const first = await followJob(t, t.alice.projectId, id, null);
    await first.events.next();
    await first.events.return!();
    const second = await followJob(t, t.alice.projectId, id, null);
    await second.events.next();
    await first.events.return!(); // a stream may be left twice: at its end and when its connection closes
    await add(id, 'heard');
    expect((await second.events.next()).value).toMatchObject([{ message: 'heard' }]);
    await second.events.return!();
  });

  it('a follower that leaves while it waits is let go', async () => {
    const id = await addJob(t, t.alice);
    const { events } = await followJob(t, t.alice.projectId, id, null);
    expect((await events.next()).done).toBe(false);
    const waiting = events.next();
    await events.return!();
    expect(await waiting).toEqual({ done: true, value: 'left' });
  });
});
