import { describe, expect, it } from 'vitest';
import { JsonFault, scanJson } from '../../src/domain/files/json-scan.ts';

const LIMITS = { depth: 4, nodes: 20 };

function fault(text: string) {
  try {
    scanJson(text, LIMITS);
    return null;
  } catch (error) {
    if (!(error instanceof JsonFault)) throw error;
    return [error.code, error.path];
  }
}

describe('scanJson', () => {
  it.each([
    '{}',
    '[[[[1]]]]',
    '{"a":{"a":1},"b":[{"a":1},{"a":2}]}',
    '{"a":"{[{[{[","b":"\\"{{{{{"}',
    '{"a":"\\\\","b":"\\\\\\""}',
    '"\\ud83d\\ude00"',
    '[1e308, -1e-400, 9007199254740993]',
    '{"constructor":1,"prototype":2}',
  ])('lets %s through', (text) => {
    expect(fault(text)).toBeNull();
    expect(() => JSON.parse(text)).not.toThrow();
  });

  it.each([
    ['[[[[[1]]]]]', 'json_too_deep', null],
    [`[${'1,'.repeat(20)}1]`, 'json_too_large', null],
    ['{"a":1,"b":2,"a":3}', 'duplicate_parameter', 'a'],
    ['{"x":[{"a":1},{"a":1,"\\u0061":2}]}', 'duplicate_parameter', 'x[1].a'],
    ['{"x":{"__proto__":1}}', 'unknown_parameter', 'x.__proto__'],
    ['{"x":{"\\u005f_proto__":1}}', 'unknown_parameter', 'x.__proto__'],
    ['{"x":["a","\\u0000"]}', 'invalid_string', 'x[1]'],
    ['{"x":"\\ud83d"}', 'invalid_string', 'x'],
    ['{"x":"\\ude00\\ud83d"}', 'invalid_string', 'x'],
    ['{"x":"\\\\\\ud83d"}', 'invalid_string', 'x'],
    ['{"x":[1,-1e400]}', 'invalid_number', 'x[1]'],
  ])('refuses %s', (text, code, path) => {
    expect(fault(text)).toEqual([code, path]);
  });

  it('leaves what is not JSON to the parser', () => {
    for (const text of [
      '',
      '{',
      '"',
      '"\\',
      '{"a"',
      '{a:1}',
      ']]]',
      '-',
      '\u0000',
      '"\\u00',
      '{"a":"\\x"}',
      '1e',
      'nul',
    ]) {
      expect(fault(text)).toBeNull();
      expect(() => JSON.parse(text)).toThrow(SyntaxError);
    }
  });

  it('passes a bomb in the time of one look', () => {
    const started = performance.now();
    expect(fault('['.repeat(5_000_000))).toEqual(['json_too_deep', null]);
    expect(fault(`"${'\\"'.repeat(2_000_000)}`)).toBeNull();
    expect(performance.now() - started).toBeLessThan(1_000);
  });
});
