/** Places of an inference worker: how many wait, and who gets the last quarter. */
import { describe, expect, it } from 'vitest';
import { Admission } from '../../workers/inference/admission.ts';

describe('admission', () => {
  it('bounds waiting requests and waiting tokens; what runs does not count', () => {
    const admission = new Admission({ maxRunning: 2, maxWaiting: 2, maxWaitingTokens: 100 });
    const places = [1, 2, 3, 4].map(() => admission.reserve('a', 1, 10)!);
    expect(admission.reserve('a', 1, 10)).toBeNull();
    places[0]!.started();
    places[1]!.started();
    expect(admission.waiting).toBe(2);
    expect(admission.reserve('a', 1, 10)).toBeNull();
    places[2]!.started();
    const long = admission.reserve('a', 1, 90)!;
    expect(long).not.toBeNull();
    long.resize(20);
    long.release();
    long.release();
    for (const place of places) place.release();
    expect([admission.waiting, admission.requests]).toEqual([0, 0]);
    expect(admission.reserve('a', 1, 500)).not.toBeNull(); // alone, a prompt may be as long as the context
    expect(admission.reserve('a', 1, 1)).toBeNull();
  });

  it('keeps the last quarter for those who have few waiting', () => {
    const admission = new Admission({ maxRunning: 0, maxWaiting: 64, maxWaitingTokens: 6400 });
    const fill = (owner: string) => {
      for (let taken = 0; ; taken++) if (!admission.reserve(owner, 1, 1)) return taken;
    };
    expect([fill('loud'), fill('b'), fill('c'), fill('d'), fill('e'), fill('f')]).toEqual([
      48, 4, 4, 4, 4, 0,
    ]);

    const long = new Admission({ maxRunning: 0, maxWaiting: 64, maxWaitingTokens: 6400 });
    for (let i = 0; i < 5; i++) long.reserve('loud', 1, 960);
    expect([long.reserve('loud', 1, 960), long.reserve('quiet', 1, 960)]).toEqual([null, expect.anything()]);
  });

  it('gives an owner its places back', () => {
    const admission = new Admission({ maxRunning: 1, maxWaiting: 4, maxWaitingTokens: 100 });
    const places = [1, 2, 3, 4].map(() => admission.reserve('a', 1, 1)!); // one of them could start
    expect(admission.reserve('a', 1, 1)).toBeNull();
    places[0]!.started();
    places[1]!.release();
    places[1]!.release();
    expect(admission.reserve('a', 1, 1)).not.toBeNull();
    expect([admission.reserve('a', 1, 1), admission.reserve('b', 1, 1)]).toEqual([null, expect.anything()]);
  });
});
