/** Faults of whole files, what is accepted, and rows that are too long. */
import { describe, expect, test } from 'vitest';
import { loadDataset } from '../../../workers/engine/data/validate.ts';
import { chatRow, plain, tenRows, tiny } from './fixture.ts';

import { assistant, call, chat, tool, user, validate } from './validated.ts';

describe('faults of the file', () => {
  test('too few examples', async () => {
    const report = await validate(tenRows.slice(0, 9), { minExamples: undefined });
    expect(report.errors).toEqual([
      {
        line: null,
        code: 'invalid_n_examples',
        param: 'training_file',
        message: 'Training file has 9 example(s), but must have at least 10 examples',
      },
    ]);
    expect((await validate(tenRows, { minExamples: undefined })).errors).toEqual([]);
    const validation = await validate('\n \n', { what: 'Validation file' });
    expect(validation.errors).toMatchObject([{ code: 'empty_file', param: 'validation_file' }]);
  });

  test('chat rows for a model without a chat template', async () => {
    const report = await validate([chatRow()], {}, plain);
    expect(report.errors).toMatchObject([{ line: 1, code: 'invalid_training_file' }]);
  });

  test('a mixture is reported once', async () => {
    const report = await validate([
      chatRow(),
      { prompt: 'a', completion: 'b' },
      { prompt: 'c', completion: 'd' },
    ]);
    expect(report.errors).toMatchObject([{ line: 2, code: 'mixed_formats' }]);
    expect(report.errorsTotal).toBe(1);
  });

  test('of many faults the first 100 are listed and all are counted, in little memory', async () => {
    const before = process.memoryUsage().rss;
    const began = performance.now();
    const report = await validate(`${JSON.stringify(chat(user))}\n`.repeat(100_000));
    expect(performance.now() - began).toBeLessThan(10_000);
    expect(report.errors).toHaveLength(100);
    expect(report.errorsTotal).toBe(100_000);
    expect(report.errors[99]!.line).toBe(100);
    expect(process.memoryUsage().rss - before).toBeLessThan(128 * 1024 * 1024);
  });
});

describe('what is accepted', () => {
  test('chat with tools, weights, names, parts and tool answers', async () => {
    const report = await validate([
      {
        ...chat(
          { role: 'developer', content: 'x', name: 'a' },
          { ...user, content: [{ type: 'text', text: 'q' }] },
          { role: 'assistant', content: null, tool_calls: [call], weight: 0 },
          { role: 'tool', content: '4', tool_call_id: 'c1' },
          { ...assistant, weight: 1 },
        ),
        tools: [tool],
        parallel_tool_calls: true,
      },
    ]);
    expect(report).toMatchObject({ format: 'chat', examples: 1, errors: [], errorsTotal: 0 });
  });

  test.each([
    ['completion', [{ prompt: 'a', completion: 'b' }]],
    [
      'alpaca',
      [
        { instruction: 'a', input: '', output: 'b' },
        { instruction: 'a', input: 'i', output: 'b', system: 's' },
      ],
    ],
    [
      'src_tgt',
      [
        { src: 'a', tgt: 'b' },
        { src: ['a', 'c'], tgt: ['b', 'd'], context: { system: 's' } },
      ],
    ],
  ])('%s rows, as lines or as one pretty-printed array', async (format, rows) => {
    const lines = await validate(rows);
    const array = await validate(JSON.stringify(rows, null, 2));
    expect(lines).toMatchObject({ format, examples: rows.length, errors: [] });
    expect(array).toEqual(lines);
    expect(await validate(rows, {}, format === 'completion' ? plain : tiny)).toMatchObject({
      examples: rows.length,
      errors: [],
    });
  });

  test('unequal turns of src and tgt are refused', async () => {
    expect((await validate([{ src: ['a'], tgt: ['b', 'c'] }])).errors).toMatchObject([
      { line: 1, code: 'invalid_value', param: 'tgt' },
    ]);
  });

  test('blank lines, duplicates and special tokens in text give warnings', async () => {
    const injected = chat({ role: 'user', content: 'a <|im_end|>' }, assistant);
    const report = await validate(
      `${JSON.stringify(chatRow())}\n\n${JSON.stringify(chatRow())}\n${JSON.stringify(injected)}\n`,
    );
    expect(report.errors).toEqual([]);
    expect(report.warnings.map((w) => w.code)).toEqual([
      'blank_lines',
      'duplicate_examples',
      'special_tokens_in_text',
    ]);
    const same = await validate(Array(10).fill(chatRow()));
    expect(same.warnings[0]!.message).toContain('100 %');
  });
});

describe('over-long rows', () => {
  const long = chat(user, { role: 'assistant', content: 'word '.repeat(400) });
  const hopeless = chat({ role: 'user', content: 'word '.repeat(400) }, assistant);

  test('truncate keeps the start; a row without any answer left is refused with its line', async () => {
    const report = await validate([long, hopeless], { maxLength: 100 });
    expect(report).toMatchObject({ truncated: 1, examples: 1 });
    expect(report.errors).toMatchObject([{ line: 2, code: 'no_trainable_tokens' }]);
    expect(report.tokens).toBe(99);
  });

  test('drop counts them, error names them', async () => {
    expect(await validate([chatRow(), long], { maxLength: 100, overlong: 'drop' })).toMatchObject({
      dropped: 1,
      examples: 1,
      errors: [],
    });
    const report = await validate([chatRow(), long], { maxLength: 100, overlong: 'error' });
    expect(report.errors).toMatchObject([{ line: 2, code: 'example_too_long' }]);
  });

  test.each(['a'.repeat(2 ** 20), '👩‍👩‍👧‍👦'.repeat(90_000), 'z\u0301\u0302\u0303'.repeat(100_000)])(
    'a hostile text of a megabyte takes no time',
    async (content) => {
      const began = performance.now();
      const report = await validate([chat({ role: 'user', content }, assistant)], { overlong: 'drop' });
      expect(report.dropped).toBe(1);
      expect(performance.now() - began).toBeLessThan(2000);
    },
  );
});

test('the shipped example files are clean', async () => {
  for (const [name, rows] of [
    ['train', 400],
    ['valid', 60],
    ['heldout', 60],
  ] as const) {
    const path = new URL(`../../../examples/data/${name}.jsonl`, import.meta.url).pathname;
    const { report, dataset } = await loadDataset(path, tiny, { maxLength: 2048, overlong: 'error' });
    expect(report).toMatchObject({ format: 'chat', examples: rows, errors: [], warnings: [], truncated: 0 });
    expect(dataset.length).toBe(rows);
    expect(dataset.tokens).toBe(report.tokens);
  }
});
