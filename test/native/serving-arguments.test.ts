// What the serving ops refuse beyond types and shapes: values in tables that would reach outside a tensor.
import { describe, expect, it } from 'vitest';
import type { Handle } from '../../native/index.ts';
import { servingCalls } from './calls.serving.ts';
import { type Call, run } from './calls.ts';
import { tensor, values } from './tensors.ts';

const call = (op: string) => servingCalls('f32').find((c) => c.op === op)!;

/** The message with which a call with other arguments is refused. */
function refusal(op: string, change: Record<string, Handle | number | null>): string {
  const valid = call(op);
  try {
    run({ ...valid, args: { ...valid.args, ...change } } as Call);
  } catch (error) {
    expect((error as { code?: string }).code).toBe('LATHE_INVALID_ARGUMENT');
    return (error as Error).message;
  }
  throw new Error(`${op} took ${JSON.stringify(Object.keys(change))}`);
}

/** An i32 argument of a valid call with some elements changed. */
function edited(op: string, name: string, edits: Record<number, number>): Handle {
  const valid = call(op);
  const numbers = values(valid.args[name] as Handle);
  for (const [index, value] of Object.entries(edits)) numbers[Number(index)] = value;
  const dims = { table: [2, 3, 4], ints: [3, 8] }[name] ?? [numbers.length];
  return tensor('i32', dims, numbers);
}

describe('linearGroup', () => {
  it('refuses a table that reaches outside the pool, and ranks that are none', () => {
    const table = (edits: Record<number, number>) =>
      refusal('linearGroup', { table: edited('linearGroup', 'table', edits) });
    expect(table({ 0: -1 })).toContain('linearGroup: table: A reaches beyond the pool');
    expect(table({ 0: 601 })).toContain('table: A reaches beyond the pool');
    expect(table({ 0: 2 ** 31 - 1 })).toContain('table: A reaches beyond the pool');
    expect(table({ 13: 639 })).toContain('table: B reaches beyond the pool');
    for (const rank of [7, -8, 264]) expect(table({ 2: rank })).toContain('table: ranks are multiples of 8');
  });

  it('refuses slots outside the table', () => {
    for (const slot of [-2, 2]) {
      const slots = edited('linearGroup', 'slots', { 3: slot });
      expect(refusal('linearGroup', { slots })).toContain('slots: names a row outside the table');
    }
  });

  it('refuses layers and adapters in part', () => {
    expect(refusal('linearGroup', { y1: null })).toContain('y1: is missing');
    expect(refusal('linearGroup', { w1: null })).toContain('w1: layer 2 needs layer 1');
    expect(refusal('linearGroup', { w2: null })).toContain('y2: has no weight');
    expect(refusal('linearGroup', { pool: null })).toContain('pool: pool, table and slots come together');
    expect(refusal('linearGroup', { y1: call('linearGroup').args.x as Handle })).toContain('y1: ');
  });

  it('runs without adapters and biases', () => {
    const { args, ...rest } = call('linearGroup');
    const none = { pool: null, table: null, slots: null, bias0: null, bias1: null, bias2: null };
    run({ ...rest, args: { ...args, ...none } });
    const x = values(args.x as Handle);
    const w = values(args.w1 as Handle);
    const expected = x.slice(40, 80).reduce((sum, value, k) => sum + value * w[2 * 40 + k]!, 0);
    expect(values(args.y1 as Handle)[8 + 2]).toBeCloseTo(expected, 5);
  });
});

describe('sampleTokens', () => {
  it('refuses settings that name rows outside counts and mask, or one row of counts twice', () => {
    const ints = (edits: Record<number, number>) =>
      refusal('sampleTokens', { ints: edited('sampleTokens', 'ints', edits) });
    expect(ints({ 6: 2 })).toContain('ints: names no row of counts');
    expect(ints({ 7: 2 })).toContain('ints: names no row of mask');
    expect(ints({ 6: 1 })).toContain('ints: names a row of counts twice');
    expect(ints({ 0: -1 })).toContain('ints: topK must not be negative');
    expect(ints({ 5: -1 })).toContain('ints: step must not be negative');
    expect(refusal('sampleTokens', { counts: null })).toContain('ints: names no row of counts');
  });

  it('refuses a vocabulary that the logits lack, and biases outside it', () => {
    for (const vocabulary of [0, -1, 103]) {
      expect(refusal('sampleTokens', { vocabulary })).toContain(
        'vocabulary: must be in [1, columns of logits]',
      );
    }
    expect(refusal('sampleTokens', { biasTokens: tensor('i32', [3], [4, 97, 6]) })).toContain('biasTokens: ');
    expect(refusal('sampleTokens', { biasOffsets: tensor('i32', [4], [0, 2, 1, 3]) })).toContain(
      'biasOffsets: ',
    );
    expect(refusal('sampleTokens', { biasValues: null })).toContain('biasOffsets: ');
    expect(refusal('sampleTokens', { topTokens: null })).toContain('topTokens: ');
  });
});
