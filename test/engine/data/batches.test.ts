import { describe, expect, test } from 'vitest';
import {
  batchesOf,
  evaluationBatches,
  examplesOf,
  stepsPerEpoch,
} from '../../../workers/engine/data/batches.ts';
import { Dataset } from '../../../workers/engine/data/dataset.ts';
import { ignoredTarget } from '../../../workers/engine/data/encode.ts';
import { epochOrder } from '../../../workers/engine/data/order.ts';
import { concatenate, pack, packIndices } from '../../../workers/engine/data/pack.ts';

/** Example i has i % 7 + 2 tokens, all of them 1000 + i; everything after the first is learned. */
function dataset(n: number): Dataset {
  const set = new Dataset();
  for (let i = 0; i < n; i++) {
    const length = (i % 7) + 2;
    set.add(
      new Array(length).fill(1000 + i),
      Array.from({ length }, (_, k) => k > 0),
    );
  }
  return set;
}

describe('packing', () => {
  test('is greedy: into the roomiest open pack, the first of equals', () => {
    const lengths = [6, 3, 5, 2, 4, 1, 7];
    const packs = packIndices(lengths, 8).map((members) => members.map((i) => lengths[i]));
    expect(packs).toEqual([[6, 2], [3, 5], [4, 1], [7]]);
  });

  test('never exceeds the room, except for an example that is longer on its own', () => {
    expect(packIndices([9, 1, 8, 8], 8)).toEqual([[0], [1], [2], [3]]);
    for (const members of packIndices([3, 4, 5, 1, 2, 6, 2, 2], 8)) {
      expect(members.reduce((sum, i) => sum + [3, 4, 5, 1, 2, 6, 2, 2][i]!, 0)).toBeLessThanOrEqual(8);
    }
    expect(packIndices([], 8)).toEqual([]);
  });

  test('positions restart and segments touch', () => {
    const a = { ids: Int32Array.of(1, 2, 3), targets: Int32Array.of(ignoredTarget, 3, 4) };
    const b = { ids: Int32Array.of(5, 6), targets: Int32Array.of(6, 7) };
    const batch = concatenate([a, b]);
    expect([...batch.ids]).toEqual([1, 2, 3, 5, 6]);
    expect([...batch.positions]).toEqual([0, 1, 2, 0, 1]);
    expect([...batch.cuSeqlens]).toEqual([0, 3, 5]);
    expect([...batch.targets]).toEqual([ignoredTarget, 3, 4, 6, 7]);
    expect(pack([a, b], 4)).toHaveLength(2);
  });
});

describe('Dataset', () => {
  test('gives back what was added, shifted, and counts', () => {
    const set = new Dataset();
    set.add([7, 8, 9, 10], [false, false, true, true]);
    set.add([1, 2], [true, true]);
    expect(set.get(0)).toEqual([
      { ids: Int32Array.of(7, 8, 9), targets: Int32Array.of(ignoredTarget, 9, 10) },
    ]);
    expect(set.get(1)).toEqual([{ ids: Int32Array.of(1), targets: Int32Array.of(2) }]);
    expect([set.length, set.tokens, set.labelledTokens]).toEqual([2, 4, 3]);
    expect([set.positions(0), set.positions(1)]).toEqual([3, 1]);
  });

  test('keeps both sequences of a pair together', () => {
    const set = new Dataset(2);
    set.add([7, 8, 9], [false, true, true]);
    expect(set.length).toBe(0);
    set.add([7, 4], [false, true]);
    set.add([1, 2], [false, true]);
    set.add([1, 2, 3, 4], [false, false, false, true]);
    expect([set.length, set.positions(0), set.positions(1), set.longest]).toEqual([2, 3, 4, 4]);
    expect(set.get(1).map(({ ids }) => [...ids])).toEqual([[1], [1, 2, 3]]);
    const batches = batchesOf(set, { batchSize: 2, maxTokens: 3, seed: 1, step: 0 });
    expect(batches.map((batch) => [...batch.cuSeqlens]).sort()).toEqual([
      [0, 1, 4],
      [0, 2, 3],
    ]);
    expect(batches.flatMap((batch) => batch.examples).sort()).toEqual([0, 1]);
  });

  test('grows, and refuses what cannot be learned', () => {
    const set = dataset(3000);
    expect(set.length).toBe(3000);
    expect(set.get(2999)[0]!.ids.every((id) => id === 3999)).toBe(true);
    expect(() => set.add([1], [true])).toThrow(RangeError);
    expect(() => set.add([1, 2], [true, false])).toThrow(/without a target/);
    expect(() => set.get(3000)).toThrow(RangeError);
  });
});

describe('batches', () => {
  const set = dataset(50);

  test('one epoch sees every example once; epochs and seeds differ', () => {
    const steps = stepsPerEpoch(50, 8);
    expect(steps).toBe(7);
    const epoch = (e: number, seed: number) =>
      Array.from({ length: steps }, (_, s) => [
        ...examplesOf(set, { batchSize: 8, seed, step: e * steps + s }),
      ]).flat();
    expect(epoch(0, 1).sort((a, b) => a - b)).toEqual(Array.from({ length: 50 }, (_, i) => i));
    expect(epoch(0, 1)).not.toEqual(epoch(1, 1));
    expect(epoch(0, 1)).not.toEqual(epoch(0, 2));
    expect(examplesOf(set, { batchSize: 8, seed: 1, step: 6 })).toHaveLength(2);
  });

  test('a step is a pure function of its arguments, whatever was asked before', () => {
    const options = { batchSize: 8, maxTokens: 24, seed: 5 };
    const inOrder = Array.from({ length: 20 }, (_, step) => batchesOf(set, { ...options, step }));
    const fresh = dataset(50);
    for (const step of [19, 3, 11, 0, 7])
      expect(batchesOf(fresh, { ...options, step })).toEqual(inOrder[step]);
  });

  test('micro-batches hold exactly the examples of the step', () => {
    const options = { batchSize: 8, seed: 5, step: 2 };
    const chosen = [...examplesOf(set, options)].map((i) => 1000 + i).sort();
    const batches = batchesOf(set, { ...options, maxTokens: 16 });
    const seen = batches.flatMap((b) => [...b.cuSeqlens.slice(0, -1)].map((start) => b.ids[start]!)).sort();
    expect(seen).toEqual(chosen);
    for (const batch of batches) expect(batch.ids.length).toBeLessThanOrEqual(16);
  });

  test('the order is fixed for ever: another build must resume the same epoch', () => {
    expect([...epochOrder(10, 42, 0)]).toEqual([9, 0, 4, 8, 6, 5, 1, 2, 3, 7]);
    expect([...epochOrder(10, 42, 1)]).toEqual([0, 2, 7, 4, 8, 9, 5, 3, 6, 1]);
  });

  test('shuffles evenly', () => {
    const first = new Array(5).fill(0);
    for (let seed = 0; seed < 5000; seed++) first[epochOrder(5, seed, 0)[0]!]++;
    for (const count of first) expect(Math.abs(count - 1000)).toBeLessThan(150);
  });

  test('evaluation walks the file in order', () => {
    const batches = [...evaluationBatches(set, 20)];
    const order = batches.flatMap((b) => [...b.cuSeqlens.slice(0, -1)].map((start) => b.ids[start]! - 1000));
    expect(order).toEqual(Array.from({ length: 50 }, (_, i) => i));
    expect(batches.reduce((sum, b) => sum + b.ids.length, 0)).toBe(set.tokens);
  });
});
