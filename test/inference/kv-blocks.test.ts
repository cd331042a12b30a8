/** Block tables, reference counts and the prefix cache, without a model. */
import { describe, expect, it } from 'vitest';
import { KvBlocks } from '../../workers/inference/kv-blocks.ts';
import { Sequence } from '../../workers/inference/sequence.ts';

let arrivals = 0;
const sequence = (prompt: number[], salt = 'a', maxLength = prompt.length + 32): Sequence =>
  new Sequence({
    arrival: arrivals++,
    prompt: Int32Array.from(prompt),
    maxLength,
    cacheSalt: salt,
    adapter: null,
  });
const count = (n: number, from = 0): number[] => Array.from({ length: n }, (_, i) => from + i);
const create = (blocks: number, prefixCache = true): KvBlocks =>
  new KvBlocks({ blocks, blockSize: 4, prefixCache });

/** Runs a sequence's known tokens through the blocks. */
function fill(blocks: KvBlocks, s: Sequence): number {
  const reused = blocks.reusePrefix(s);
  expect(blocks.cover(s, s.length)).toBe(true);
  blocks.commit(s, s.remaining);
  return reused;
}

describe('kv-blocks', () => {
  it('gives a block per started blockSize tokens and takes all of them back', () => {
    const blocks = create(8);
    const s = sequence(count(9));
    fill(blocks, s);
    expect(s.blocks).toHaveLength(3);
    expect(new Set(s.blocks).size).toBe(3);
    expect(blocks.free).toBe(5);
    blocks.verify([s]);
    blocks.release(s);
    expect(blocks.free).toBe(8);
    expect(s.computed).toBe(0);
    blocks.verify([]);
  });

  it('changes nothing when too few blocks are free', () => {
    const blocks = create(2);
    const s = sequence(count(9));
    expect(blocks.cover(s, 9)).toBe(false);
    expect(s.blocks).toEqual([]);
    expect(blocks.free).toBe(2);
  });

  it('shares full blocks of an equal prefix, while in use and afterwards', () => {
    const blocks = create(16);
    const a = sequence([...count(8), 50, 51]);
    const b = sequence([...count(8), 60, 61, 62]);
    expect(fill(blocks, a)).toBe(0);
    expect(fill(blocks, b)).toBe(8);
    expect(b.blocks.slice(0, 2)).toEqual(a.blocks.slice(0, 2));
    expect(b.blocks[2]).not.toBe(a.blocks[2]);
    blocks.verify([a, b]);
    blocks.release(a);
    blocks.verify([b]);
    blocks.release(b);
    expect(fill(blocks, sequence([...count(8), 70]))).toBe(8);
  });

  it('always leaves a token to run, even when every block of the prompt is cached', () => {
    const blocks = create(16);
    fill(blocks, sequence(count(8)));
    const again = sequence(count(8));
    expect(blocks.reusePrefix(again)).toBe(4);
    expect(again.remaining).toBe(4);
  });

  it('shares nothing across salts, nor after a different beginning', () => {
    const blocks = create(16);
    fill(blocks, sequence(count(8)));
    expect(fill(blocks, sequence(count(8), 'b'))).toBe(0);
    expect(fill(blocks, sequence([99, ...count(7, 1)]))).toBe(0);
    const swapped = sequence([...count(4, 4), ...count(4), 1]); // the second block alone is known
    expect(fill(blocks, swapped)).toBe(0);
  });

  it('shares nothing when the prefix cache is off', () => {
    const blocks = create(16, false);
    fill(blocks, sequence(count(8)));
    expect(fill(blocks, sequence(count(8)))).toBe(0);
  });

  it('gives up the least recently used content first, and of one sequence its end', () => {
    const blocks = create(4);
    const [old, recent] = [sequence(count(8)), sequence(count(8, 100))];
    fill(blocks, old);
    fill(blocks, recent);
    blocks.release(old);
    blocks.release(recent);
    const taker = sequence([7]);
    fill(blocks, taker); // needs one block: the second of `old`
    expect(blocks.reusePrefix(sequence([...count(8), 1]))).toBe(4);
    expect(blocks.reusePrefix(sequence([...count(8, 100), 1]))).toBe(8);
  });

  it('throws when the state would become wrong', () => {
    const blocks = create(4);
    const s = sequence(count(5));
    fill(blocks, s);
    expect(() => blocks.commit(s, 1)).toThrow(/beyond/);
    expect(() => blocks.reusePrefix(s)).toThrow(/holds blocks/);
    expect(() => blocks.verify([])).toThrow(/references/);
  });
});

describe('sequence', () => {
  it('keeps its tokens while it grows, up to maxLength', () => {
    const s = sequence([5, 6], 'a', 200);
    for (let i = 0; i < 198; i++) s.append(i);
    expect([...s.slice(0, 200)]).toEqual([5, 6, ...count(198)]);
    expect(s.completionLength).toBe(198);
    expect(() => s.append(1)).toThrow(/maxLength/);
  });
});
