/** HEAD on routes whose GET streams: the headers of GET, and nothing that goes on behind the answer. */
import { expect, it, vi } from 'vitest';
import { TEN_ROWS, useApp } from '../helpers/app.ts';
import { addJob } from './rows.ts';

const t = useApp();

const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;

it('of a download opens nothing and tells its length', async () => {
  const id = await t.upload(TEN_ROWS);
  const get = vi.spyOn(t.storage, 'get');
  const whole = await t.call('HEAD', `/v1/files/${id}/content`);
  expect([whole.status, whole.headers.get('content-length'), whole.text]).toEqual([
    200,
    String(TEN_ROWS.length),
    '',
  ]);
  const part = await t.call('HEAD', `/v1/files/${id}/content`, { headers: { range: 'bytes=2-4' } });
  expect([part.status, part.headers.get('content-length')]).toEqual([206, '3']);
  expect((await t.call('HEAD', '/v1/files/file-none/content')).status).toBe(404);
  expect(get).not.toHaveBeenCalled();
  get.mockRestore();
});

it('of a stream of events follows nothing', async () => {
  const id = await addJob(t, t.alice);
  const url = `${await t.serve()}/fine_tuning/jobs/${id}/events?stream=true`;
  const before = timers();
  for (let i = 0; i < 30; i++) {
    const answer = await fetch(url, { method: 'HEAD', headers: { authorization: `Bearer ${t.alice.key}` } });
    expect([answer.status, answer.headers.get('content-type')]).toEqual([
      200,
      'text/event-stream; charset=utf-8',
    ]);
  }
  await vi.waitFor(() => expect(timers() - before).toBeLessThan(10), 2_000);
});
