/** Turns of owners: one piece at a time, each owner in turn, and what is too much is refused. */
import { setImmediate as soon } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { FairTurns } from '../../workers/inference/fair-turns.ts';

/** Takes turns with pieces that note when they begin and end when told. */
function create(most = 100, mostOfOwner = 50) {
  const turns = new FairTurns({ most, mostOfOwner });
  const begun: string[] = [];
  const ends: (() => void)[] = [];
  const take = (name: string) =>
    turns.take(name[0]!, () => {
      begun.push(name);
      return new Promise<string>((resolve) => ends.push(() => resolve(name)));
    });
  const finish = async () => {
    ends.shift()!();
    await soon();
  };
  return { turns, begun, take, finish };
}

it('owners take turns, whoever came first; each keeps its own order', async () => {
  const { begun, take, finish } = create();
  const all = ['a1', 'a2', 'a3', 'b1', 'b2', 'c1'].map((name) => take(name)!);
  expect(begun).toEqual(['a1']);
  await finish();
  await finish();
  const late = take('d1')!;
  for (let i = 0; i < 5; i++) await finish();
  expect(begun).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'd1', 'a3']);
  expect(await Promise.all([...all, late])).toEqual(['a1', 'a2', 'a3', 'b1', 'b2', 'c1', 'd1']);
});

it('places are bounded, in all and of one owner, and come back', async () => {
  const { take, finish } = create(3, 2);
  expect([take('a1'), take('a2'), take('a3')].map((taken) => taken !== null)).toEqual([true, true, false]);
  expect([take('b1'), take('c1')].map((taken) => taken !== null)).toEqual([true, false]);
  await finish();
  expect(take('a3')).not.toBeNull();
});

it('a piece that fails is its own affair', async () => {
  const { turns, begun, take } = create();
  const failing = turns.take('a', async () => {
    throw new Error('broken');
  });
  const next = take('b1');
  await expect(failing).rejects.toThrow('broken');
  await soon();
  expect([begun, next !== null]).toEqual([['b1'], true]);
});
