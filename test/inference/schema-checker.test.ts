/** Schemas that are made to be slow or large: refused early, and never on the event loop of the one who asks. */
import { describe, expect, it } from 'vitest';
import { schemaGrammar } from '../../src/inference/grammar/json-schema.ts';
import { literalLength, sharedBudgets } from '../../src/inference/grammar/limits.ts';
import { SchemaRefusal } from '../../src/inference/grammar/refusal.ts';
import { CheckerBusy, SchemaChecker } from '../../src/inference/grammar/schema-checker.ts';

const many = <T>(count: number, make: (i: number) => T): T[] =>
  Array.from({ length: count }, (_, i) => make(i));
const nested = (depth: number) => {
  let schema: object = { type: 'null' };
  for (let i = 0; i < depth; i++) schema = { type: 'array', items: schema, minItems: 50, maxItems: 100 };
  return schema;
};
const closed = (properties: Record<string, object>) => ({
  type: 'object',
  properties,
  required: Object.keys(properties),
  additionalProperties: false,
});

describe('a grammar', () => {
  it('is as large as its schema, however arrays nest', () => {
    expect(schemaGrammar(nested(30)).length).toBeLessThan(4 * schemaGrammar(nested(10)).length);
    const tuple = schemaGrammar({ type: 'array', prefixItems: many(4_000, () => ({ type: 'null' })) });
    expect(tuple.length).toBeLessThan(200_000);
  });

  it('expands what is named often once', () => {
    const pattern = '^(a0|b1|c2|d3|e4|f5|g6|h7|i8|j9){20}$';
    expect(schemaGrammar({ anyOf: [{ type: 'string', pattern }, { type: 'null' }] })).toContain('root ::=');
  });

  it.each<[string, unknown, string]>([
    ['a long const', { const: 'x'.repeat(130_000) }, 'const'],
    ['a const of many values', { const: many(130_000, (i) => i) }, 'const'],
    ['a long enum of many values', { enum: many(251, (i) => 'y'.repeat(60) + i) }, 'enum'],
    [
      'enums that are long together',
      closed(Object.fromEntries(many(9, (i) => [`k${i}`, { const: 'x'.repeat(15_000) }]))),
      'const',
    ],
    [
      'many lists of multiples',
      closed(
        Object.fromEntries(
          many(40, (i) => [`k${i}`, { type: 'integer', multipleOf: 7, minimum: 0, maximum: 13_000 }]),
        ),
      ),
      'multipleOf',
    ],
    [
      'long names beside free ones',
      { type: 'object', properties: { ['n'.repeat(600)]: {} }, additionalProperties: true },
      'additionalProperties',
    ],
    ['one type many times', { type: many(9, () => 'string') }, 'type'],
    [
      'many schemas to tell apart',
      { oneOf: many(2_000, (i) => closed({ k: { const: i }, z: { type: 'null' } })) },
      'oneOf',
    ],
  ])('of %s is refused', (_, schema, keyword) => {
    const refusal = (() => {
      try {
        return schemaGrammar(schema);
      } catch (error) {
        return error;
      }
    })();
    expect(refusal).toBeInstanceOf(SchemaRefusal);
    expect((refusal as SchemaRefusal).keyword).toBe(keyword);
  });

  it('shares its limits with others when told so', () => {
    const budgets = sharedBudgets(2);
    const compile = (count: number) =>
      schemaGrammar({ enum: many(count, (i) => i) }, { budget: budgets.next().value });
    expect(() => compile(1_001)).toThrow(SchemaRefusal);
    const others = sharedBudgets(2);
    for (const count of [800, 800, 400])
      schemaGrammar({ enum: many(count, (i) => i) }, { budget: others.next().value });
    expect(() => schemaGrammar({ const: 1 }, { budget: others.next().value })).toThrow(SchemaRefusal);
  });

  it('measures literals without writing them', () => {
    expect(literalLength({ a: ['xyz', 1, null] }, 1_000)).toBeGreaterThanOrEqual(6);
    expect(
      literalLength(
        many(900_000, () => 1),
        1_000_000,
      ),
    ).toBe(900_001);
    expect(
      literalLength(
        many(1_000, () => many(1_000, () => 1)),
        5_000,
      ),
    ).toBeLessThan(10_000);
  });
});

describe('the checker', { timeout: 30_000 }, () => {
  const slow = { anyOf: many(100, (i) => ({ type: 'string', pattern: `^(a|b)*${i}(a|b){12}$` })) };

  it('says which schema is wrong, and leaves the event loop alone', async () => {
    const checker = new SchemaChecker({ deadlineMilliseconds: 10_000, waitingMax: 10 });
    const as = (schema: unknown) => ({ schema, options: { strict: false } });
    expect(await checker.check([as({ type: 'string' })])).toBeNull(); // and has started
    const began = process.threadCpuUsage();
    const results = await Promise.all([
      checker.check([as({ type: 'null' }), as({ type: 'int' })]),
      checker.check([as(slow), as(nested(25))]),
      checker.check([as({ type: 'boolean' })]),
      checker.check([as({ description: 'x'.repeat(300_000) }), as({ description: 'x'.repeat(300_000) })]),
    ]);
    expect(results).toEqual([
      { index: 1, why: expect.stringContaining("'type' must be one of") },
      null,
      null,
      { index: 1, why: expect.stringContaining('500000 characters') },
    ]);
    // Processor time of this thread: a busy machine does not count.
    const { user, system } = process.threadCpuUsage(began);
    expect((user + system) / 1000).toBeLessThan(100);
  });

  it('gives up after its deadline, and goes on with the next', async () => {
    const checker = new SchemaChecker({ deadlineMilliseconds: 60, waitingMax: 2 });
    const options = { lenient: true };
    const heavy = { schema: slow, options };
    const waiting = [checker.check([heavy]), checker.check([{ schema: { type: 'null' }, options }])];
    await expect(checker.check([heavy])).rejects.toBeInstanceOf(CheckerBusy);
    expect(await Promise.all(waiting)).toEqual([
      { index: 0, why: expect.stringContaining('takes too long') },
      null,
    ]);
  });
});
