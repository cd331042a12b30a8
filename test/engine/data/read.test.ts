import { writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { type RawRow, type ReadResult, readRows } from '../../../workers/engine/data/read.ts';
import { dataFile } from './fixture.ts';

async function read(content: string | Uint8Array): Promise<{ rows: RawRow[]; result: ReadResult }> {
  const stream = readRows(dataFile(content));
  const rows: RawRow[] = [];
  for (let next = await stream.next(); ; next = await stream.next()) {
    if (next.done) return { rows, result: next.value };
    rows.push(next.value);
  }
}

const bytes = (...parts: (string | number[])[]) =>
  Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part) : Buffer.from(part))));

describe('lines', () => {
  test('CRLF, blank lines and a last line without newline are accepted; line numbers count every line', async () => {
    const { rows, result } = await read('{"a":1}\r\n\n  \t\r\n{"b":2}\r\n{"c":3}');
    expect(rows).toEqual([
      { line: 1, text: '{"a":1}\r' },
      { line: 4, text: '{"b":2}\r' },
      { line: 5, text: '{"c":3}' },
    ]);
    expect(result).toEqual({ blankLines: 2, byteOrderMark: false, array: false });
  });

  test('a byte order mark is taken off at the start of the file only', async () => {
    const { rows, result } = await read(bytes([0xef, 0xbb, 0xbf], '{}\n', [0xef, 0xbb, 0xbf], '{}\n'));
    expect(rows).toEqual([
      { line: 1, text: '{}' },
      { line: 2, text: '\ufeff{}' },
    ]);
    expect(result.byteOrderMark).toBe(true);
  });

  test.each([
    ['a stray byte', [0x80], 9],
    ['an overlong slash', [0xc0, 0xaf], 9],
    ['an encoded surrogate', [0xed, 0xa0, 0x80], 10],
    ['a cut character', [0xe6, 0xbc], 11],
  ])('%s is refused with its line and offset', async (_name, bad, offset) => {
    const { rows } = await read(bytes('{}\n', '{"a":"ü"', bad, '\n', '{}\n'));
    expect(rows[1]).toEqual({
      line: 2,
      code: 'invalid_encoding',
      message: `not valid UTF-8 at byte ${offset} of the line`,
    });
    expect(rows[2]).toEqual({ line: 3, text: '{}' });
  });

  test('a line over 4 MiB is refused and the next one is read', async () => {
    const { rows } = await read(`${'x'.repeat(4 * 1024 * 1024 + 1)}\n{}\n${'y'.repeat(4 * 1024 * 1024)}\n`);
    expect(rows[0]).toMatchObject({ line: 1, code: 'line_too_long' });
    expect(rows[1]).toEqual({ line: 2, text: '{}' });
    expect(rows[2]).toHaveProperty('text');
  });

  test('characters that span read buffers survive', async () => {
    const text = `{"a":"${'漢😀'.repeat(100_000)}"}`;
    const { rows } = await read(`${text}\n${text}\n`);
    expect(rows.map((row) => 'text' in row && row.text === text)).toEqual([true, true]);
  });
});

describe('one JSON array', () => {
  test('yields its elements with the lines on which they start', async () => {
    const { rows, result } = await read(
      '\ufeff [\n  {"a": "],\\"[{"},\n  {"b": [1, 2],\n   "c": {}} , 5\n]\n',
    );
    expect(rows).toEqual([
      { line: 2, text: '{"a": "],\\"[{"}' },
      { line: 3, text: '{"b": [1, 2],\n   "c": {}} ' },
      { line: 4, text: '5\n' },
    ]);
    expect(result.array).toBe(true);
  });

  test.each([
    ['[{},', /not closed/],
    ['[{}] {}', /data after/],
    ['[{},]', /comma before the end/],
  ])('%s is refused', async (text, message) => {
    const { rows } = await read(text);
    expect(
      rows.some((row) => 'code' in row && row.code === 'invalid_jsonl' && message.test(row.message)),
    ).toBe(true);
  });

  test('an empty array has no rows', async () => {
    expect((await read('[ ]')).rows).toEqual([]);
  });
});

test('memory does not grow with the file', async () => {
  const path = dataFile('');
  const line = `${JSON.stringify({ a: 'x'.repeat(1000) })}\n`;
  writeFileSync(path, line.repeat(60_000));
  global.gc?.();
  const before = process.memoryUsage().rss;
  let rows = 0;
  let peak = 0;
  for await (const _ of readRows(path))
    if (++rows % 5000 === 0) peak = Math.max(peak, process.memoryUsage().rss);
  expect(rows).toBe(60_000);
  expect(peak - before).toBeLessThan(64 * 1024 * 1024);
});
