/** Schemas that are not strict: what the grammar cannot keep does not bind, and everything else does. No model takes part. */
import { describe, expect, it } from 'vitest';
import { schemaGrammar } from '../../src/inference/grammar/json-schema.ts';
import { schemaBudget } from '../../src/inference/grammar/limits.ts';
import { SchemaRefusal } from '../../src/inference/grammar/refusal.ts';
import { useMatcher } from './matcher.ts';

const { accepts } = useMatcher();

const point = {
  type: 'object',
  properties: { x: { type: 'integer' }, y: { type: 'integer' } },
  required: ['x', 'y'],
};
/** Schema, texts that it lets pass, texts that it does not. */
const CASES: Record<string, [schema: unknown, good: string[], bad: string[]]> = {
  'keywords outside the subset': [
    {
      ...point,
      not: { required: ['z'] },
      if: { properties: { x: { const: 1 } } },
      // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
      then: { properties: { y: { const: 2 } } },
      minProperties: 3,
      dependentRequired: { x: ['y'] },
      unheard: 1,
    },
    ['{"x":1,"y":3}'],
    ['{"x":1}', '{"x":"1","y":2}'],
  ],
  'items that should differ': [
    { type: 'array', items: { type: 'integer' }, uniqueItems: true, contains: { const: 7 }, maxItems: 2 },
    ['[]', '[1, 1]'],
    ['[1,2,3]', '["a"]'],
  ],
  'more items than can be counted': [
    { type: 'array', items: { const: 1 }, minItems: 5_000 },
    ['[1]', '[]'],
    ['[2]'],
  ],
  'a tuple as it was written before 2020': [
    { type: 'array', items: [{ type: 'integer' }, { type: 'string' }], minItems: 2 },
    ['[1,"a"]', '[1,"a",null]'],
    ['["a",1]', '[1]'],
  ],
  'patterns that are no grammar': [{ type: 'string', pattern: '^(?!no)\\w+$' }, ['"no"', '"a b"'], ['1']],
  'patterns that take too much': [{ type: 'string', pattern: '(a|b)*a(a|b){20}' }, ['"x"'], ['null']],
  'patterns beside lengths': [{ type: 'string', pattern: '^a+$', maxLength: 2 }, ['"a"', '"aaa"'], ['"b"']],
  'unknown formats': [{ type: 'string', format: 'iri' }, ['"anything"'], ['1']],
  'formats of numbers': [{ type: 'integer', format: 'int32', maximum: 9 }, ['9'], ['10']],
  'steps that cannot be listed': [
    { type: 'number', multipleOf: 0.1, minimum: 0, maximum: 1 },
    ['0.5', '0.25'],
    ['2'],
  ],
  'steps without bounds': [{ type: 'integer', multipleOf: 7 }, ['14', '15'], ['"7"']],
  'steps that can': [{ type: 'integer', multipleOf: 7, minimum: 0, maximum: 20 }, ['7', '14'], ['8', '21']],
  'references elsewhere': [
    { type: 'object', properties: { a: { $ref: 'https://example.com/a.json' } }, required: ['a'] },
    ['{"a":[1,{"b":null}]}'],
    ['{}'],
  ],
  'schemas that hold together': [
    { allOf: [point, { type: 'object', properties: { z: { const: 3 } }, required: ['z'] }] },
    ['{"x":1,"y":2,"z":3}'],
    ['{"x":1,"y":2}', '{"z":3}', '{"x":1,"y":2,"z":4}'],
  ],
  'references that hold together': [
    {
      $defs: {
        point,
        named: { type: 'object', properties: { name: { enum: ['a', 'b'] } }, required: ['name'] },
      },
      allOf: [{ $ref: '#/$defs/point' }, { $ref: '#/$defs/named' }],
    },
    ['{"x":1,"y":2,"name":"b"}'],
    ['{"x":1,"y":2}', '{"x":1,"y":2,"name":"c"}'],
  ],
  'what stands beside anyOf': [
    {
      type: 'object',
      properties: { mail: { type: 'string' }, phone: { type: 'integer' } },
      anyOf: [{ required: ['mail'] }, { required: ['phone'] }],
    },
    ['{"mail":"a"}', '{"phone":1}', '{"mail":"a","phone":1}'],
    ['{}', '{"phone":"1"}', '{"mail":"a","other":1}'],
  ],
  'oneOf whose schemas overlap': [
    { oneOf: [{ type: 'string' }, { type: 'string', maxLength: 3 }] },
    ['"ab"', '"abcd"'],
    ['1'],
  ],
  'names by pattern': [
    { type: 'object', patternProperties: { '^x-': { type: 'string' } }, additionalProperties: false },
    ['{"x-a":"1"}', '{}'],
    ['[]'],
  ],
  'properties that may not be': [
    { type: 'object', properties: { a: { type: 'integer' }, b: false } },
    ['{"a":1}', '{}'],
    ['{"b":1}'],
  ],
};

const costly = (count: number) =>
  Object.fromEntries(
    Array.from({ length: count }, (_, i) => [
      `p${i}`,
      { type: 'string', pattern: `(a|b)*a(a|b){15}${'c'.repeat(i)}` },
    ]),
  );
/** What takes an automaton: a format, bounds, a step of one, and plain texts that begin alike. */
const exacting = {
  e: { type: 'string', format: 'date' },
  n: { type: 'integer', minimum: 3, maximum: 12 },
  m: { type: 'number', minimum: 3, multipleOf: 1 },
  o: { anyOf: [{ const: 'aaa' }, { type: 'string', maxLength: 2 }] },
};
const object = (properties: Record<string, unknown>) => ({
  type: 'object',
  properties,
  required: Object.keys(properties),
});

describe('schemas that are not strict', { timeout: 60_000 }, () => {
  it.each(Object.entries(CASES))('bind as far as can be: %s', async (_, [schema, good, bad]) => {
    const ok = await accepts(schema, { lenient: true });
    for (const text of good) expect([text, await ok(text)]).toEqual([text, true]);
    for (const text of bad) expect([text, await ok(text)]).toEqual([text, false]);
  });

  it.each([
    [{ type: 'int' }, 'type'],
    [{ type: 'object', properties: [] }, 'properties'],
    [{ enum: [] }, 'enum'],
    [{ type: 'object', required: 'a' }, 'required'],
    [{ $ref: '#/nowhere' }, '$ref'],
    [{ type: 'integer', minimum: 3, maximum: 2 }, 'minimum'],
    [{ $defs: { a: { allOf: [{ $ref: '#/$defs/a' }, {}] } }, $ref: '#/$defs/a' }, '$ref'],
    [{ $defs: { a: { type: 'object', allOf: [{ $ref: '#/$defs/a' }] } }, $ref: '#/$defs/a' }, '$ref'],
  ])('are refused where they are no schemas, or allow nothing: %j', (schema, keyword) => {
    try {
      schemaGrammar(schema, { lenient: true });
    } catch (error) {
      if (!(error instanceof SchemaRefusal)) throw error;
      expect(error.keyword).toBe(keyword);
      return;
    }
    throw new Error('not refused');
  });

  it('keep the rest where a pattern takes too much', async () => {
    const ok = await accepts(object({ ...costly(3), ...exacting }), { lenient: true });
    const given = '{"p0":"x","p1":"y","p2":"z"';
    expect(await ok(`${given},"e":"2024-02-10","n":7,"m":4,"o":"aaa"}`)).toBe(true);
    for (const rest of [
      '"e":"now","n":7,"m":4,"o":"aaa"}',
      '"e":"2024-02-10","n":13,"m":4,"o":"aaa"}',
      '"e":"2024-02-10","n":7,"m":2,"o":"aaa"}',
      '"e":"2024-02-10","n":7,"m":4,"o":"bbb"}',
    ])
      expect([rest, await ok(`${given},${rest}`)]).toEqual([rest, false]);
  });

  it('are never refused for what their texts take, and soon there', async () => {
    const started = performance.now();
    schemaGrammar(object({ ...costly(100), ...exacting }), { lenient: true });
    expect(performance.now() - started).toBeLessThan(5_000);
    const spent = () => ({ ...schemaBudget(), work: 0 });
    expect(() => schemaGrammar(object(exacting), { budget: spent() })).toThrow(SchemaRefusal);
    const ok = await accepts(object(exacting), { lenient: true, budget: spent() });
    expect(await ok('{"e":"now","n":13,"m":2,"o":"bbb"}')).toBe(true);
    for (const text of [
      '{"e":1,"n":1,"m":1,"o":""}',
      '{"e":"","n":1.5,"m":1,"o":""}',
      '{"e":"","n":1,"m":1}',
    ])
      expect([text, await ok(text)]).toEqual([text, false]);
  });
});
