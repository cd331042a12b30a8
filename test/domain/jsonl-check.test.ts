import { describe, expect, it } from 'vitest';
import { JsonlCheck } from '../../src/domain/files/jsonl-check.ts';

/** The finding when the bytes arrive in pieces of `size`. */
function check(text: string | Buffer, size: number, arrayAllowed = true) {
  const bytes = Buffer.from(text);
  const checker = new JsonlCheck();
  for (let at = 0; at < bytes.length; at += size) checker.push(bytes.subarray(at, at + size));
  return checker.end(arrayAllowed);
}

const sizes = [1, 2, 3, 7, 64, 1_000_000];

describe('JsonlCheck', () => {
  it.each([
    ['lines', '{"a":1}\n{"b":2}\n'],
    ['no newline at the end', '{"a":1}\n{"b":2}'],
    ['CRLF and blank lines', '\r\n{"a":1}\r\n\r\n  {"b":2}  \r\n'],
    ['a BOM at the start', '\ufeff{"a":1}\n{"b":2}'],
    ['an array', '[{"a":1},\n {"b":[1,{"c":"]},{"}]}]\n'],
    ['an array after a BOM and space', '\ufeff \n [ {"a":"\\"]"} , {"b":2} ] '],
    ['text beyond ASCII', '{"a":"日本語 🎉 é"}\n'],
    ['line separators that JSON allows', '{"a":"\u2028\u2029"}\n'],
    ['brackets in strings', `{"a":"${'['.repeat(100)}"}\n`],
  ])('accepts %s, however it is cut', (_, text) => {
    for (const size of sizes) expect([size, check(text, size)]).toEqual([size, null]);
  });

  it.each([
    ['', 'empty_file', /empty/],
    ['\ufeff', 'empty_file', /empty/],
    ['\n \n', 'empty_file', /empty/],
    ['[]', 'empty_file', /empty/],
    [
      '{"a":1}\n{"b"}\n{"c":',
      'invalid_jsonl',
      /^Expected file.* Line 2 is not a dictionary \(HINT: line starts with: "\{\\"b\\"\}"\)/,
    ],
    ['\n\n7', 'invalid_jsonl', /Line 3 /],
    ['{"a":1}\n[1]', 'invalid_jsonl', /Line 2 /],
    ['{"a":1}\n\ufeff{"b":1}', 'invalid_jsonl', /Line 2 /],
    ['{"a":1}\r{"b":1}', 'invalid_jsonl', /CR line endings/],
    ['[{"a":1},2]', 'invalid_jsonl', /Element 2 /],
    ['[{"a":1},,{"b":1}]', 'invalid_jsonl', /Element 2 /],
    ['[{"a":1}', 'invalid_jsonl', /never closed/],
    ['[{"a":1}]{"b":1}', 'invalid_jsonl', /after the JSON array/],
    ['{"a":1}]', 'invalid_jsonl', /Line 1 /],
    [Buffer.from('7b2261223a22ff227d', 'hex'), 'invalid_encoding', /Line 1 .*at byte 6/],
    [`{"a":${'['.repeat(32)}${']'.repeat(32)}}`, 'json_too_deep', /Line 1/],
  ])('refuses %j', (text, code, message) => {
    for (const size of sizes) {
      const finding = check(text, size);
      expect([size, finding?.code]).toEqual([size, code]);
      expect(finding?.message).toMatch(message);
    }
  });

  it('allows an array only where it may be one', () => {
    expect(check('[{"a":1}]', 4, false)?.code).toBe('invalid_jsonl');
  });

  it('keeps no more than one line, and says which is too long', () => {
    const long = `{"a":"${'x'.repeat(4 * 1024 * 1024)}"}`;
    expect(check(`{}\n${long}\n{}`, 65_536)).toMatchObject({
      code: 'line_too_long',
      message: expect.stringMatching(/^Line 2 /),
    });
    expect(check(`[{},${long}]`, 65_536)).toMatchObject({
      code: 'line_too_long',
      message: expect.stringMatching(/^Element 2 /),
    });
    expect(check(`{}\n${long.slice(0, -30)}"}\n{}`, 65_536)).toBeNull();
  });

  it('shows 80 characters of a bad line at most, escaped', () => {
    const finding = check(`\u0007${'x'.repeat(1000)}`, 100);
    expect(finding?.message).toContain('\\u0007');
    expect(finding?.message.length).toBeLessThan(250);
  });
});
