/** The generated texts: the example files are what their generator writes, and the corpus is the same everywhere. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { corpus } from '../../../scripts/tiny/corpus.ts';
import { orderRows } from '../../../scripts/tiny/orders.ts';
import { stepBatches } from '../../../scripts/tiny/training-data.ts';
import { tiny } from './fixture.ts';

const sizes = { train: 400, valid: 60, heldout: 60 };

test('the shipped example files are what the generator writes', () => {
  for (const [name, rows] of Object.entries(orderRows(sizes))) {
    const text = readFileSync(new URL(`../../../examples/data/${name}.jsonl`, import.meta.url), 'utf8');
    expect(text).toBe(rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  }
});

test('no order of the held-out rows is an order of the training rows', () => {
  const { train, valid, heldout } = orderRows(sizes);
  const order = (row: (typeof train)[number]) => {
    const { item, colour, day } = JSON.parse(row.messages[2]!.content);
    return `${item} ${colour} ${day}`;
  };
  const seen = new Set([...train, ...valid].map(order));
  expect(seen.size).toBe(460);
  expect(heldout.filter((row) => seen.has(order(row)))).toEqual([]);
});

test('the answer of every example row stands in its message', () => {
  for (const row of orderRows(sizes).train) {
    const { item, colour, count, day, name } = JSON.parse(row.messages[2]!.content);
    const message = row.messages[1]!.content;
    for (const word of [colour, day, name, item.slice(0, 3)]) expect(message).toContain(word);
    expect(count).toBeGreaterThanOrEqual(1);
    expect(count).toBeLessThanOrEqual(12);
  }
});

test('the corpus depends on its seed alone', () => {
  const digest = (seed: number) => {
    const hash = createHash('sha256');
    let left = 500;
    for (const sample of corpus(seed)) {
      hash.update(JSON.stringify(sample));
      if (--left === 0) break;
    }
    return hash.digest('hex');
  };
  expect(digest(1)).toBe(digest(1));
  expect(digest(1)).not.toBe(digest(2));
});

test('a training step depends on its number and seed alone, and fills its packs', () => {
  const size = { packs: 2, packTokens: 512, seed: 1 };
  const batches = stepBatches(tiny, 7, size);
  expect(stepBatches(tiny, 7, size)).toEqual(batches);
  expect(stepBatches(tiny, 8, size)).not.toEqual(batches);
  for (const batch of batches) {
    expect(batch.ids.length).toBeGreaterThan(300);
    expect(batch.ids.length).toBeLessThanOrEqual(512);
    expect(batch.targets.some((target) => target >= 0)).toBe(true);
  }
});
