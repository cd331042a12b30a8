import { describe, expect, test } from 'vitest';
import { Random } from '../../../scripts/tiny/random.ts';
import { JsonError, parseStrictJson } from '../../../workers/engine/data/strict-json.ts';

function refusal(text: string): JsonError {
  try {
    parseStrictJson(text);
  } catch (error) {
    if (error instanceof JsonError) return error;
    throw error;
  }
  throw new Error(`accepted: ${text.slice(0, 80)}`);
}

test.each([
  '{}',
  ' [ ] ',
  '0',
  '-0',
  '-0.5e-3',
  '1E+2',
  '""',
  '"\\u00e9\\n\\"\\\\\\/"',
  '"\\ud83d\\ude00"',
  'true',
  'null',
  '[1,[2,[3]],{"a":{"b":null}}]',
  '{"a":1,"A":2,"":3}',
  '\t{\r\n"a" : [ 1 , 2 ] }\n',
  '"\u2028\u007f"',
])('reads %j as JSON.parse does', (text) => {
  expect(parseStrictJson(text)).toEqual(JSON.parse(text));
});

test.each([
  '',
  ' ',
  '{',
  '}',
  '[1,]',
  '[,1]',
  '[1 2]',
  '{"a":1,}',
  '{,}',
  '{"a"}',
  '{"a":}',
  '{a:1}',
  "{'a':1}",
  '{"a":1}}',
  '{"a":1} {"b":2}',
  '01',
  '1.',
  '.5',
  '+1',
  '1e',
  '--1',
  'NaN',
  'Infinity',
  'True',
  'nul',
  '"a',
  '"\\x"',
  '"\\u12"',
  '"a\tb"',
  '"a\nb"',
  '[1]x',
  '\ufeff{}',
  '// c\n{}',
  '\u00a0{}',
])('refuses %j, as JSON.parse does', (text) => {
  expect(() => JSON.parse(text)).toThrow();
  expect(refusal(text).code).toBe('invalid_jsonl');
});

describe('what JSON.parse lets through', () => {
  test.each([
    ['{"a":1,"b":{"c":1,"c":2}}', 'duplicate_key', 'b.c'],
    ['{"a":1,"\\u0061":2}', 'duplicate_key', 'a'],
    ['{"messages":[{"content":"x\\u0000"}]}', 'invalid_content', 'messages[0].content'],
    ['{"a":"\\ud800"}', 'invalid_content', 'a'],
    ['{"a":"\\udc00\\ud800"}', 'invalid_content', 'a'],
    ['{"a":1e400}', 'invalid_content', 'a'],
    ['{"a":{"__proto__":1}}', 'unknown_field', 'a.__proto__'],
    ['{"constructor":1}', 'unknown_field', 'constructor'],
    ['['.repeat(33) + ']'.repeat(33), 'json_too_deep', '[0][0]'],
    ['['.repeat(1_000_000), 'json_too_deep', '[0][0]'],
    [`[${'0,'.repeat(100_000)}0]`, 'json_too_large', '[99999]'],
  ])('%.40s', (text, code, path) => {
    const error = refusal(text);
    expect(error.code).toBe(code);
    expect(error.path.startsWith(path)).toBe(true);
  });

  test('accepts 32 levels and says where it stopped', () => {
    expect(parseStrictJson('['.repeat(32) + ']'.repeat(32))).toHaveLength(1);
    expect(refusal('{"a": tru}').column).toBe(7);
    expect(refusal('{"a":1} x').message).toMatch(/extra data at column 9/);
  });
});

test('agrees with JSON.parse on random damage to a valid line', () => {
  const random = new Random(3);
  const valid =
    '{"messages":[{"role":"user","content":"a\\n\\u00e9 \\\\ b"},{"weight":0,"x":[-1.5e3,true,null]}]}';
  let refused = 0;
  for (let i = 0; i < 3000; i++) {
    const at = random.int(0, valid.length - 1);
    const text =
      valid.slice(0, at) +
      random.pick(['', '"', '\\', '{', ']', ',', '0', 'e', ':', ' ']) +
      valid.slice(at + random.int(0, 2));
    let expected: unknown;
    try {
      expected = JSON.parse(text);
    } catch {
      expect(refusal(text).code).toBeDefined();
      refused++;
      continue;
    }
    try {
      expect(parseStrictJson(text)).toEqual(expected);
    } catch (error) {
      expect((error as JsonError).code).toBe('duplicate_key');
    }
  }
  expect(refused).toBeGreaterThan(1000);
});

test('a text of 1 MiB is read quickly', () => {
  const began = performance.now();
  const text = JSON.stringify({ a: 'x\n'.repeat(1 << 19) });
  expect(parseStrictJson(text)).toEqual(JSON.parse(text));
  expect(performance.now() - began).toBeLessThan(1000);
});
