/**
 * Schemas that are not strict and refer to themselves where schemas hold together: they end, and what the matcher lets
 * pass is valid under the schema as it was sent, by an independent validator. No model takes part.
 */
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { schemaGrammar } from '../../src/inference/grammar/json-schema.ts';
import { useMatcher } from './matcher.ts';

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

describe('recursive schemas that are not strict', { timeout: 60_000 }, () => {
  it.each(Object.entries(CASES))('end: %s', async (_, [schema, good, bad]) => {
    const valid = new Ajv2020({ strict: false, logger: false }).compile(schema);
    const ok = await accepts(schema, { lenient: true });
    for (const text of good)
      expect([text, await ok(text), valid(JSON.parse(text))]).toEqual([text, true, true]);
    for (const text of bad)
      expect([text, await ok(text), valid(JSON.parse(text))]).toEqual([text, false, false]);
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
