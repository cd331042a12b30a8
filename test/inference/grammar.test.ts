/**
 * Schemas as grammars: what the matcher accepts under one is valid under the schema, by an independent validator; and
 * the texts one would expect are accepted. No model takes part.
 */
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { randomSchema } from '../../bench/random-schema.ts';
import { constraintOf } from '../../workers/inference/tools/constraint.ts';
import { useMatcher } from './matcher.ts';

const { accepts, there } = useMatcher();

const VALUES = [
  0,
  1,
  5,
  30,
  -3,
  12.5,
  0.05,
  99,
  117,
  1177,
  1178,
  11780,
  -1200.5,
  4.5,
  3.999,
  98.75,
  12345678901234,
  '',
  'a',
  'aaa',
  'aaaa',
  'aaaaaaa',
  'red',
  'reddish',
  'redder',
  'reddishh',
  'AB-123',
  'a@b.com',
  'ö\n',
  'z',
  '2024-02-10',
  '2024-02-30',
  '1.2.3.4',
  '1.2.3.400',
  'x,y',
  'a "quote"',
  'abcdef12',
  'é',
  null,
  true,
  false,
  [],
  ['x', 1],
  [1],
  {},
  { k: [false] },
];

describe('scalars', { timeout: 60_000 }, () => {
  it('accept nothing that is not valid', async () => {
    const fixed = [
      { enum: ['aaa', 'aaaaa', 'a'] }, // alternatives that begin alike
      { enum: ['redder', 'red', 'r', 1, 11, 117] },
      { type: 'integer', minimum: 1178 },
      { type: 'integer', minimum: -1500, exclusiveMaximum: 12 },
      { type: 'number', exclusiveMinimum: 4, maximum: 5 },
      { type: 'string', pattern: 'a|aa|aaaa' },
      { type: 'string', pattern: '(red|reddish|redder)' },
      { anyOf: [{ type: 'string', maxLength: 3 }, { const: 'reddish' }, { type: 'number', maximum: 4 }] },
      { type: ['string', 'null', 'boolean'], maxLength: 3 },
      { type: 'integer', multipleOf: 39, minimum: 0, maximum: 2000 },
    ];
    const random = Array.from({ length: 40 }, (_, seed) => randomSchema(seed)).flatMap((schema) =>
      Object.values((schema.properties ?? {}) as Record<string, object>),
    );
    const ajv = new Ajv2020({ strict: false, logger: false });
    let accepted = 0;
    for (const schema of [...fixed, ...random.filter((each) => !JSON.stringify(each).includes('$ref'))]) {
      const ok = await accepts(schema);
      for (const value of VALUES) {
        if (!(await ok(JSON.stringify(value)))) continue;
        accepted++;
        expect([JSON.stringify(schema), value, ajv.validate(schema, value)]).toEqual([
          JSON.stringify(schema),
          value,
          true,
        ]);
      }
    }
    expect(accepted).toBeGreaterThan(200);
  });

  it('accept what one expects of them', async () => {
    const cases: [unknown, string[], string[]][] = [
      [{ type: 'integer', minimum: -5, maximum: 120 }, ['-5', '0', '120'], ['121', '-6', '01', '1.0']],
      [{ type: 'number', minimum: 0, maximum: 1 }, ['0', '1', '0.5', '0.999'], ['1.5', '-0.1']],
      [
        { type: 'number', exclusiveMinimum: 9, exclusiveMaximum: 10 },
        ['9.001', '9.999'],
        ['9', '10', '09.5'],
      ],
      [{ type: 'string', pattern: '^[A-Z]{2}-\\d+"?$' }, ['"AB-1"', '"AB-12\\""'], ['"ab-1"', '"AB-"']],
      [{ type: 'string', pattern: '[à-ä]+.' }, ['"àb"', '"äé"'], ['"b"', '"à"']],
      [{ type: 'string', format: 'date-time' }, ['"2024-02-28T12:00:00Z"'], ['"2024-02-30T12:00:00Z"']],
      [{ type: 'string' }, ['"a\\n\\"b\\""', '"中😀"'], ['"a', 'a']],
    ];
    for (const [schema, good, bad] of cases) {
      const ok = await accepts(schema);
      for (const text of good) expect([text, await ok(text)]).toEqual([text, true]);
      for (const text of bad) expect([text, await ok(text)]).toEqual([text, false]);
    }
  });
});

describe('objects and arrays', { timeout: 60_000 }, () => {
  it('keep order, requirement and closed doors', async () => {
    const ok = await accepts({
      type: 'object',
      properties: { a: { type: 'integer' }, b: { type: 'string' }, 'q"': { const: 1 } },
      required: ['a'],
    });
    const good = ['{"a":1}', '{"a": 1, "b": "x"}', '{\n  "a": 1,\n  "q\\"": 1\n}', '{"a":1,"b":"","q\\"":1}'];
    for (const text of good) expect([text, await ok(text)]).toEqual([text, true]);
    for (const text of [
      '{}',
      '{"b":"x"}',
      '{"a":1,"c":2}',
      '{"a":1,}',
      '{"a":1}}',
      ' {"a":1}',
      '{"a":1,"a":2}',
    ])
      expect([text, await ok(text)]).toEqual([text, false]);
  });

  it('let further properties have any other name', async () => {
    const ok = await accepts({
      type: 'object',
      properties: { ab: { type: 'integer' }, é: { const: 1 } },
      additionalProperties: { type: 'string' },
    });
    for (const text of ['{}', '{"ab":1,"a":"x","abc":"y"}', '{"":"x"}', '{"z":"😀"}'])
      expect([text, await ok(text)]).toEqual([text, true]);
    for (const text of ['{"ab":"x"}', '{"ab":1,"ab":"x"}', '{"é":"x"}', '{"z":1}'])
      expect([text, await ok(text)]).toEqual([text, false]);
  });

  it('count items, and refer to themselves', async () => {
    const tuple = await accepts({
      type: 'array',
      prefixItems: [{ const: 1 }, { const: 2 }],
      items: { const: 3 },
      minItems: 1,
      maxItems: 4,
    });
    for (const text of ['[1]', '[1,2]', '[1, 2, 3, 3]'])
      expect([text, await tuple(text)]).toEqual([text, true]);
    for (const text of ['[]', '[2]', '[1,2,3,3,3]', '[1,]'])
      expect([text, await tuple(text)]).toEqual([text, false]);
    const link = {
      type: 'object',
      properties: { next: { anyOf: [{ type: 'null' }, { $ref: '#' }] } },
      required: ['next'],
      additionalProperties: false,
    };
    const list = await accepts(link, { strict: true });
    expect(await list('{"next":{"next":{"next":null}}}')).toBe(true);
    expect(await list('{"next":}')).toBe(false);
  });

  it('take any object where nothing is said', async () => {
    const ok = await accepts({ type: 'object' });
    expect(await ok('{"a":[1,{"b":null}],"c":-1.5e3}')).toBe(true);
    expect(await ok('{"a":1e999}')).toBe(false); // would not be a finite number
  });
});

describe('free text with tagged calls', { timeout: 60_000 }, () => {
  it('is free until a tag begins, and a valid call from there on', async () => {
    const format = {
      begin: '<tool_call>\n{"name": "',
      middle: '", "arguments": ',
      end: '}\n</tool_call>',
      separator: '\n',
    };
    const tool = {
      name: 'f',
      strict: true,
      parameters: {
        type: 'object',
        properties: { a: { enum: [1, 2] } },
        required: ['a'],
        additionalProperties: false,
      },
    };
    const source = constraintOf({
      tools: [tool],
      toolFormat: format,
      choice: { mode: 'auto', names: null, parallel: true },
      format: null,
    });
    expect(source?.kind).toBe('tags');
    const grammar = await there.compiler.compileStructuralTag(JSON.parse(source!.text));
    const call = (args: string) => `<tool_call>\n{"name": "f", "arguments": ${args}}\n</tool_call>`;
    for (const [text, good] of [
      ['Hello < you', true],
      [call('{"a":1}'), true],
      [`So: ${call('{"a": 2}')}\n${call('{"a":1}')}`, true],
      [call('{"a":3}'), false],
      ['<tool_call>nonsense', false],
    ] as const) {
      const matcher = await there.library.GrammarMatcher.createGrammarMatcher(grammar);
      const read = there.tokenizer.encode(text).every((token) => matcher.acceptToken(token));
      expect([text, read]).toEqual([text, good]);
      matcher.dispose();
    }
  });

  it('does not begin like a call where calls have no tag', async () => {
    const format = { begin: '{"name": "', middle: '", "parameters": ', end: '}', separator: null };
    const source = constraintOf({
      tools: [{ name: 'f', strict: true }],
      toolFormat: format,
      choice: { mode: 'auto', names: null, parallel: true },
      format: null,
    });
    const grammar = await there.compiler.compileGrammar(source!.text, 'root');
    for (const [text, good] of [
      ['Hello {"name": 1}', true],
      ['{"name": "f", "parameters": {}}', true],
      ['{"name": "g", "parameters": {}}', false],
    ] as const) {
      const matcher = await there.library.GrammarMatcher.createGrammarMatcher(grammar);
      expect([text, there.tokenizer.encode(text).every((token) => matcher.acceptToken(token))]).toEqual([
        text,
        good,
      ]);
      matcher.dispose();
    }
  });
});
