/** Schemas that cannot be grammars: refused by keyword and place, and soon. */
import { describe, expect, it } from 'vitest';
import { type SchemaOptions, schemaGrammar } from '../../src/inference/grammar/json-schema.ts';
import { SchemaRefusal } from '../../src/inference/grammar/refusal.ts';

describe('refusals', () => {
  const refusal = (schema: unknown, options: SchemaOptions = {}): SchemaRefusal => {
    try {
      schemaGrammar(schema, options);
    } catch (error) {
      if (error instanceof SchemaRefusal) return error;
      throw error;
    }
    throw new Error(`not refused: ${JSON.stringify(schema)}`);
  };

  it('name the keyword and the place', () => {
    const cases: [unknown, string][] = [
      [{ type: 'object', properties: { a: { type: 'array', uniqueItems: true } } }, 'uniqueItems'],
      [{ not: {} }, 'not'],
      [{ if: {}, else: {} }, 'if'],
      [{ allOf: [{}, {}] }, 'allOf'],
      [{ oneOf: [{ type: 'string' }, { minLength: 1 }] }, 'oneOf'],
      [{ anyOf: [{ type: 'array' }, { type: 'array' }] }, 'anyOf'],
      [{ type: 'string', enum: ['a'], minLength: 1 }, 'minLength'],
      [{ $ref: '#/nowhere' }, '$ref'],
      [{ type: 'object', properties: { a: { $ref: '#' } }, required: ['a'] }, 'schema'],
      [{ type: 'number', multipleOf: 0.1 }, 'multipleOf'],
      [{ type: 'integer', minimum: 3, maximum: 2 }, 'minimum'],
      [{ type: 'string', pattern: '\\bword' }, 'pattern'],
      [{ type: 'string', pattern: '[\u4e00-\u9fff]' }, 'pattern'],
      [{ type: 'array', minItems: 2, maxItems: 1 }, 'maxItems'],
      [{ unheard: 1 }, 'unheard'],
    ];
    for (const [schema, keyword] of cases)
      expect([keyword, refusal(schema).keyword]).toEqual([keyword, keyword]);
    expect(refusal(cases[0]![0]).path).toEqual(['properties', 'a']);
    const open = {
      type: 'object',
      properties: { a: { type: 'object', properties: {} } },
      required: ['a'],
      additionalProperties: false,
    };
    expect(refusal(open, { strict: true })).toMatchObject({
      keyword: 'additionalProperties',
      path: ['properties', 'a'],
    });
  });

  it('are left out where a function is not strict', () => {
    const loose = {
      type: 'object',
      properties: { a: { type: 'string', format: 'uri' }, b: { not: {} } },
      minProperties: 1,
    };
    expect(schemaGrammar(loose, { lenient: true })).toContain('root ::=');
    expect(() => schemaGrammar({ type: 'int' }, { lenient: true })).toThrow(SchemaRefusal);
  });

  it('come soon for schemas that are made to be slow', () => {
    const started = performance.now();
    let deep: unknown = {};
    for (let i = 0; i < 1000; i++) deep = { type: 'array', items: deep };
    expect(refusal(deep).keyword).toBe('schema');
    refusal({ type: 'string', pattern: '((((a{1000}){1000}){1000}){1000})' });
    refusal({ enum: Array.from({ length: 2000 }, (_, i) => i) });
    const chain = Array.from({ length: 3000 }, (_, i) => [
      `a${i}`,
      { type: 'array', items: { $ref: `#/$defs/a${i + 1}` } },
    ]);
    expect(refusal({ $ref: '#/$defs/a0', $defs: Object.fromEntries(chain) }).keyword).toBe('$ref');
    const costly = Array.from({ length: 50 }, (_, i) => [
      `p${i}`,
      { type: 'string', pattern: '(a|b)*a(a|b){10}' },
    ]);
    refusal({ type: 'object', properties: Object.fromEntries(costly) });
    schemaGrammar({ anyOf: [{ type: 'string', maxLength: 2000 }, { type: 'null' }, { type: 'number' }] });
    schemaGrammar({ enum: Array.from({ length: 1000 }, (_, i) => `v${i}${'x'.repeat(8)}`) });
    refusal({ type: 'string', pattern: '(a|b)*a(a|b){20}' });
    expect(performance.now() - started).toBeLessThan(5_000);
  });
});
