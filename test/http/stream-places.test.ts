/** Streams of events have an end in number: a key gets so many, and each that ends makes room. */
import { describe, expect, it } from 'vitest';
import { createKey } from '../../src/domain/keys/create.ts';
import { StreamPlaces } from '../../src/http/stream-places.ts';
import { useApp } from '../helpers/app.ts';
import { addJob } from './rows.ts';

const t = useApp({ maxEventStreams: 3 });

describe('streams of events', () => {
  it('are as many as a key may have, and others have their own', async () => {
    const id = await addJob(t, t.alice);
    const open = (key = t.alice.key, method = 'GET') =>
      t.app.request(`/v1/fine_tuning/jobs/${id}/events?stream=true`, {
        ...{ method, headers: { authorization: `Bearer ${key}` } },
      });
    for (let i = 0; i < 5; i++) expect((await open(t.alice.key, 'HEAD')).status).toBe(200); // leaves at once
    const streams = [await open(), await open(), await open()];
    expect(streams.map(({ status }) => status)).toEqual([200, 200, 200]);
    const refused = await open();
    expect(refused.status).toBe(429);
    expect(((await refused.json()) as { error: object }).error).toMatchObject({ code: 'too_many_streams' });
    const { key } = await createKey(t.database, t.alice.projectId, 'other');
    const other = await open(key);
    expect(other.status).toBe(200);
    await streams[0]!.body!.cancel();
    streams.push(await open(), other);
    expect(streams.at(-2)!.status).toBe(200);
    await t.call('POST', `/v1/fine_tuning/jobs/${id}/cancel`);
    for (const stream of streams.slice(1)) expect(await stream.text()).toContain('[DONE]');
    expect((await open()).status).toBe(200); // all have ended
  });
});

describe('a place', () => {
  it('is given back once, by an end, a failure or a reader that leaves', async () => {
    const places = new StreamPlaces(1);
    const ends = async function* () {};
    // biome-ignore lint/correctness/useYield: it fails before
    const fails = async function* () {
      throw new Error('away');
    };
    const ended = await places.take('k', ends());
    expect(places.count('k')).toBe(1);
    await expect(places.take('k', ends())).rejects.toMatchObject({ status: 429 });
    await ended.next();
    await ended.return!();
    expect(places.count('k')).toBe(0);
    const failed = await places.take('k', fails());
    await expect(failed.next()).rejects.toThrow('away');
    expect(places.count('k')).toBe(0);
    const left = await places.take('k', ends());
    await left.return!();
    expect(places.count('k')).toBe(0);
    const none = new StreamPlaces(0);
    for (let i = 0; i < 10; i++) await none.take('k', ends());
  });
});
