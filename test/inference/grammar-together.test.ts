/**
 * Schemas that are not strict and whose parts hold together, also where they refer to themselves or exclude each other:
 * what the matcher lets pass is valid under the schema as it was sent, by an independent validator.
 */
import { Ajv2020 } from 'ajv/dist/2020.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { schemaGrammar } from '../../src/inference/grammar/json-schema.ts';
import { useMatcher } from './matcher.ts';
import { TinyWorker, TinyWorld } from './tiny-worker.ts';

const { accepts } = useMatcher();

/** Schema, texts that it lets pass (all valid), texts that it does not (all invalid). */
const CASES: Record<string, [schema: object, good: string[], bad: string[]]> = {
  'a reference with a description beside it': [
    {
      type: 'object',
      properties: {
        value: { type: 'string' },
        child: { allOf: [{ $ref: '#' }, { description: 'sub' }] },
      },
      additionalProperties: false,
    },
    ['{}', '{"value":"a","child":{"value":"b","child":{"child":{}}}}'],
    ['{"child":1}', '{"child":{"child":{"value":1}}}', '{"child":{"other":1}}'],
  ],
  'a type beside anyOf': [
    {
      $defs: {
        Node: {
          type: 'object',
          properties: {
            value: { type: 'integer' },
            next: { type: ['object', 'null'], anyOf: [{ $ref: '#/$defs/Node' }, { type: 'null' }] },
          },
          required: ['value', 'next'],
        },
      },
      $ref: '#/$defs/Node',
    },
    ['{"value":1,"next":null}', '{"value":1,"next":{"value":2,"next":{"value":3,"next":null}}}'],
    ['{"value":1}', '{"value":1,"next":{"value":2}}', '{"value":1,"next":1}', 'null'],
  ],
  'a type beside allOf': [
    {
      type: 'object',
      properties: { name: { type: 'string' }, child: { type: 'object', allOf: [{ $ref: '#' }] } },
      required: ['name'],
    },
    ['{"name":"a"}', '{"name":"a","child":{"name":"b","child":{"name":"c"}}}'],
    ['{"name":"a","child":{}}', '{"name":"a","child":{"name":"b","child":1}}'],
  ],
  'an alternative of another type than the one beside anyOf': [
    { type: 'string', anyOf: [{ const: 'a' }, { const: null }] },
    ['"a"'],
    ['null', '"b"'],
  ],
  'values of another type than the one beside oneOf': [
    { type: ['string'], oneOf: [{ enum: ['a'] }, { enum: [1] }] },
    ['"a"'],
    ['1'],
  ],
  'an alternative that requires what a closed object excludes': [
    {
      type: 'object',
      properties: { a: { type: 'integer' }, b: { type: 'integer' } },
      additionalProperties: false,
      anyOf: [{ required: ['a'] }, { required: ['b'] }, { required: ['c'] }],
    },
    ['{"a":1}', '{"b":1}', '{"a":1,"b":2}'],
    ['{}', '{"c":1}', '{"a":1,"c":1}'],
  ],
  'alternatives inside an alternative, none of which fits': [
    { type: 'string', anyOf: [{ anyOf: [{ const: 1 }, { const: 2 }] }, { const: 'a' }] },
    ['"a"'],
    ['1', '2'],
  ],
  'a reference that no value fits, twice': [
    {
      $defs: { bad: { type: 'object', properties: { z: { type: 'string', enum: [1] } }, required: ['z'] } },
      type: 'object',
      properties: {
        x: { anyOf: [{ $ref: '#/$defs/bad' }, { const: 1 }] },
        y: { anyOf: [{ $ref: '#/$defs/bad' }, { const: 2 }] },
      },
      required: ['x', 'y'],
    },
    ['{"x":1,"y":2}'],
    ['{"x":1}', '{"x":1,"y":{}}', '{"x":1,"y":}'],
  ],
  'inheritance whose own property inherits': [
    {
      $defs: {
        Animal: { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] },
        Dog: {
          allOf: [
            { $ref: '#/$defs/Animal' },
            {
              type: 'object',
              properties: { pup: { allOf: [{ $ref: '#/$defs/Dog' }, { required: ['tail'] }] } },
            },
            { properties: { tail: { type: 'boolean' } } },
          ],
        },
      },
      $ref: '#/$defs/Dog',
    },
    ['{"name":"a"}', '{"name":"a","pup":{"name":"b","pup":{"name":"c","tail":false},"tail":true}}'],
    ['{"pup":{"name":"b","tail":true}}', '{"name":"a","pup":{"tail":true}}', '{"name":"a","pup":1}'],
  ],
};

const validator = (schema: object) => {
  const valid = new Ajv2020({ strict: false, logger: false }).compile(schema);
  return (text: string): boolean => {
    try {
      return valid(JSON.parse(text));
    } catch (error) {
      if (error instanceof SyntaxError) return false;
      throw error;
    }
  };
};

describe('schemas that hold together', { timeout: 60_000 }, () => {
  it.each(Object.entries(CASES))('let valid texts pass alone: %s', async (_, [schema, good, bad]) => {
    const valid = validator(schema);
    const ok = await accepts(schema, { lenient: true });
    for (const text of good) expect([text, await ok(text), valid(text)]).toEqual([text, true, true]);
    for (const text of bad) expect([text, await ok(text), valid(text)]).toEqual([text, false, false]);
  });

  it.each([
    [{ allOf: [{ type: 'string' }, { const: 1 }] }, '"any"', '1'],
    [{ allOf: [{ type: 'string', maxLength: 2 }, { minLength: 3 }] }, '"ab"', '"abc"'],
  ])('keep the first of allOf where no value fits all: %j', async (schema, good, bad) => {
    const ok = await accepts(schema, { lenient: true });
    expect([await ok(good), await ok(bad)]).toEqual([true, false]);
  });

  it.each([
    [{ type: 'string', anyOf: [{ const: 1 }, { const: null }] }, 'enum'],
    [{ anyOf: [{ type: 'int' }, { type: 'string' }] }, 'type'],
  ])('are refused where nothing remains, or a part is no schema: %j', (schema, keyword) => {
    expect(() => schemaGrammar(schema, { lenient: true })).toThrow(
      expect.objectContaining({ name: 'SchemaRefusal', keyword }),
    );
  });

  it('end when many kinds lead through each other, each put together anew', () => {
    const kinds = Array.from({ length: 60 }, (_, i) => [
      `k${i}`,
      {
        type: 'object',
        properties: {
          next: { type: ['object', 'null'], anyOf: [{ $ref: `#/$defs/k${(i + 1) % 60}` }, { type: 'null' }] },
          back: { allOf: [{ $ref: `#/$defs/k${(i + 59) % 60}` }, { required: ['next'] }] },
        },
      },
    ]);
    const grammar = schemaGrammar(
      { $defs: Object.fromEntries(kinds), $ref: '#/$defs/k0' },
      { lenient: true },
    );
    expect(grammar.length).toBeLessThan(200_000);
  });
});

describe('answers under schemas that hold together', { timeout: 60_000 }, () => {
  let world: TinyWorld;
  let worker: TinyWorker;
  beforeAll(async () => {
    world = await TinyWorld.shipped();
    worker = await TinyWorker.start(world, { maxRunning: 8, tokenBudget: 256 });
  }, 60_000);
  afterAll(async () => {
    await worker.stop();
    await world.remove();
  });

  it('are valid at any temperature', async () => {
    const cases = Object.values(CASES).flatMap(([schema]) =>
      [0, 1].map((temperature) => ({ schema, temperature })),
    );
    const ended = await Promise.all(
      cases.map(async ({ schema, temperature }, seed) => {
        const extra = { response_format: { type: 'json_schema' as const, schema, strict: false } };
        const answer = await worker.ask({
          content: 'Say something.',
          temperature,
          seed,
          max_tokens: 200,
          extra,
        });
        expect(answer.error).toBeNull();
        if (answer.reasons[0] === 'length') return false; // in the middle of a string or deep inside itself
        expect([answer.text[0], validator(schema)(answer.text[0]!)]).toEqual([answer.text[0], true]);
        return true;
      }),
    );
    expect(ended.filter(Boolean).length).toBeGreaterThan(cases.length / 2);
  });
});
