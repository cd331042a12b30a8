/** Reads that gather: fresh, one statement for many, and a failure stays with those who asked before it. */
import { describe, expect, it } from 'vitest';
import { gatheredReads } from '../../src/db/gathered-reads.ts';

/** A table of numbers whose statements read when they begin and answer when the test says so. */
function table() {
  const rows = new Map<string, number>();
  const statements: { keys: string[]; answer(): void; fail(error: Error): void }[] = [];
  const read = gatheredReads<string, number>(
    (key) => key,
    (keys) => {
      const seen = new Map([...rows].filter(([key]) => keys.includes(key)));
      const { promise, resolve, reject } = Promise.withResolvers<ReadonlyMap<string, number>>();
      statements.push({ keys, answer: () => resolve(seen), fail: reject });
      return promise;
    },
  );
  return { rows, statements, read };
}

/** Lets everything run that waits for an answer already given. */
const settled = () => new Promise((resolve) => setImmediate(resolve));

describe('gatheredReads', () => {
  it('reads at once when nothing is under way, and null where there is no row', async () => {
    const { rows, statements, read } = table();
    rows.set('a', 1);
    const both = Promise.all([read('a'), read('none')]);
    expect(statements.map(({ keys }) => keys)).toEqual([['a'], ['none']]);
    for (const { answer } of statements) answer();
    expect(await both).toEqual([1, null]);
  });

  it('gathers what is asked for meanwhile, each key once, and sees what was written before it was asked', async () => {
    const { rows, statements, read } = table();
    rows.set('a', 1);
    const early = [read('a'), read('b')];
    rows.set('a', 2);
    const late = [read('a'), read('c'), read('a')];
    expect(statements).toHaveLength(2);
    statements[0]!.answer();
    await settled();
    expect(statements[2]!.keys).toEqual(['a', 'c']);
    for (const { answer } of statements) answer();
    expect(await Promise.all(early)).toEqual([1, null]);
    expect(await Promise.all(late)).toEqual([2, null, 2]);
  });

  it('answers the others while one statement hangs', async () => {
    const { rows, statements, read } = table();
    rows.set('b', 5);
    void read('hangs');
    for (let i = 0; i < 3; i++) {
      const answer = read('b');
      statements.at(-1)!.answer();
      expect(await answer).toBe(5);
      await settled();
    }
  });

  it('bounds a statement and loses no key', async () => {
    const { statements, read } = table();
    const answers = Array.from({ length: 252 }, (_, i) => read(`k${i}`));
    for (let i = 0; i < statements.length; i++) {
      statements[i]!.answer();
      await settled();
    }
    expect(await Promise.all(answers)).toEqual(answers.map(() => null));
    expect(statements.map(({ keys }) => keys.length)).toEqual([1, 1, 100, 100, 50]);
  });

  it('tells a failure to its own readers only', async () => {
    const { rows, statements, read } = table();
    rows.set('a', 1);
    const first = read('a');
    const second = read('b');
    const third = read('a');
    statements[0]!.fail(new Error('connection lost'));
    await expect(first).rejects.toThrow('connection lost');
    await settled();
    statements[1]!.answer();
    statements[2]!.answer();
    expect(await Promise.all([second, third])).toEqual([null, 1]);
  });
});
