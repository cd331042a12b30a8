import { describe, expect, test } from 'vitest';
import { type DataReport, loadDataset, validateFile } from '../../../workers/engine/data/validate.ts';
import type { Tokenizer } from '../../../workers/engine/tokenizer/load.ts';
import { alternating, chatRow, dataFile, plain, tenRows, tiny } from './fixture.ts';

const options = { maxLength: 512, overlong: 'truncate', minExamples: 1 } as const;

function validate(
  content: string | Uint8Array | readonly unknown[],
  more = {},
  tokenizer: Tokenizer = tiny,
): Promise<DataReport> {
  return validateFile(dataFile(content), tokenizer, { ...options, ...more });
}

/** A good row, then this one on line 2. */
async function faultOf(row: unknown): Promise<[number | null, string, string | null]> {
  const line = typeof row === 'string' ? row : JSON.stringify(row);
  const report = await validate(`${JSON.stringify(chatRow())}\n${line}\n`);
  expect(report.errors.length).toBeGreaterThan(0);
  const { line: at, code, param, message } = report.errors[0]!;
  if (at !== null) expect(message).toMatch(new RegExp(`^line ${at}`));
  return [at, code, param];
}

const user = { role: 'user', content: 'Hi' };
const assistant = { role: 'assistant', content: 'Hello' };
const call = { id: 'c1', type: 'function', function: { name: 'f', arguments: '{}' } };
const chat = (...messages: unknown[]) => ({ messages });
const tool = { type: 'function', function: { name: 'f', parameters: {} } };

describe('faults of a row, with line, code and field', () => {
  test.each<[string, unknown, string, string | null]>([
    ['not JSON', '{a:1}', 'invalid_jsonl', null],
    ['an array', '[1]', 'invalid_jsonl', null],
    ['two objects on a line', '{"a":1}{"b":2}', 'invalid_jsonl', null],
    ['a byte order mark inside', '\ufeff{}', 'invalid_jsonl', null],
    [
      'a NUL',
      '{"messages":[{"role":"user","content":"a\\u0000"}]}',
      'invalid_content',
      'messages[0].content',
    ],
    [
      'a lone surrogate',
      '{"messages":[{"role":"user","content":"\\ud83d"}]}',
      'invalid_content',
      'messages[0].content',
    ],
    [
      'a duplicate key',
      '{"messages":[{"role":"user","role":"system"}]}',
      'duplicate_key',
      'messages[0].role',
    ],
    ['__proto__', '{"__proto__":{}}', 'unknown_field', '__proto__'],
    ['33 levels', `{"messages":${'['.repeat(32)}${']'.repeat(32)}}`, 'json_too_deep', null],
    ['no known format', { text: 'x' }, 'invalid_training_file', null],
    ['a preference row', { input: {}, preferred_output: [] }, 'mixed_formats', null],
    ['another format', { prompt: 'a', completion: 'b' }, 'mixed_formats', null],
    ['messages not a list', { messages: 'x' }, 'invalid_type', 'messages'],
    ['no messages', chat(), 'empty_array', 'messages'],
    ['1025 messages', chat(...Array(1024).fill(user), assistant), 'array_above_max_length', 'messages'],
    ['a message that is no object', chat('x', assistant), 'invalid_type', 'messages[0]'],
    ['no role', chat({ content: 'x' }, assistant), 'missing_field', 'messages[0].role'],
    ['an unknown role', chat({ role: 'bot', content: 'x' }, assistant), 'invalid_role', 'messages[0].role'],
    [
      'a role in capitals',
      chat({ role: 'User', content: 'x' }, assistant),
      'invalid_role',
      'messages[0].role',
    ],
    ['no content', chat({ role: 'user' }, assistant), 'missing_field', 'messages[0].content'],
    ['content null', chat({ role: 'user', content: null }, assistant), 'invalid_type', 'messages[0].content'],
    [
      'content a number',
      chat({ role: 'user', content: 5 }, assistant),
      'invalid_type',
      'messages[0].content',
    ],
    [
      'assistant content null without calls',
      chat(user, { role: 'assistant', content: null }),
      'invalid_type',
      'messages[1].content',
    ],
    [
      'an image',
      chat({ role: 'user', content: [{ type: 'image_url', image_url: {} }] }, assistant),
      'unsupported_content',
      'messages[0].content[0].type',
    ],
    [
      'a text part without text',
      chat({ role: 'user', content: [{ type: 'text' }] }, assistant),
      'missing_field',
      'messages[0].content[0].text',
    ],
    [
      'a text over 1 MiB',
      chat({ role: 'user', content: 'x'.repeat(2 ** 20 + 1) }, assistant),
      'string_above_max_length',
      'messages[0].content',
    ],
    ['no assistant', chat(user), 'no_assistant_message', 'messages'],
    ['last not assistant', chat(user, assistant, user), 'last_message_not_assistant', 'messages[2]'],
    ['weight 0.5', chat(user, { ...assistant, weight: 0.5 }), 'invalid_weight', 'messages[1].weight'],
    ['weight "1"', chat(user, { ...assistant, weight: '1' }), 'invalid_weight', 'messages[1].weight'],
    ['weight -1', chat(user, { ...assistant, weight: -1 }), 'invalid_weight', 'messages[1].weight'],
    ['weight on user', chat({ ...user, weight: 1 }, assistant), 'unknown_field', 'messages[0].weight'],
    ['only weight 0', chat(user, { ...assistant, weight: 0 }), 'no_trainable_tokens', null],
    [
      'a tool answer without id',
      chat(user, { role: 'tool', content: 'x' }, assistant),
      'invalid_tool_call',
      'messages[1].tool_call_id',
    ],
    [
      'a tool answer nobody asked for',
      chat(user, { role: 'tool', content: 'x', tool_call_id: 'c9' }, assistant),
      'invalid_tool_call',
      'messages[1].tool_call_id',
    ],
    [
      'empty tool_calls',
      chat(user, { ...assistant, tool_calls: [] }),
      'invalid_tool_call',
      'messages[1].tool_calls',
    ],
    [
      'arguments that are no JSON',
      chat(user, { ...assistant, tool_calls: [{ ...call, function: { name: 'f', arguments: '{' } }] }),
      'invalid_tool_call',
      'messages[1].tool_calls[0].function.arguments',
    ],
    [
      'a call without name',
      chat(user, { ...assistant, tool_calls: [{ ...call, function: { arguments: '{}' } }] }),
      'invalid_tool_call',
      'messages[1].tool_calls[0].function.name',
    ],
    [
      'a call without id',
      chat(user, { ...assistant, tool_calls: [{ ...call, id: undefined }] }),
      'invalid_tool_call',
      'messages[1].tool_calls[0].id',
    ],
    ['tools not a list', { ...chat(user, assistant), tools: {} }, 'invalid_tools', 'tools'],
    ['129 tools', { ...chat(user, assistant), tools: Array(129).fill(tool) }, 'invalid_tools', 'tools'],
    [
      'a tool without name',
      { ...chat(user, assistant), tools: [{ type: 'function', function: {} }] },
      'invalid_tools',
      'tools[0].function.name',
    ],
    [
      'parameters that are no schema',
      { ...chat(user, assistant), tools: [{ ...tool, function: { name: 'f', parameters: 'x' } }] },
      'invalid_tools',
      'tools[0].function.parameters',
    ],
    ['an unknown top-level field', { ...chat(user, assistant), foo: 1 }, 'unknown_field', 'foo'],
    ['an unknown message field', chat({ ...user, foo: 1 }, assistant), 'unknown_field', 'messages[0].foo'],
  ])('%s', async (_name, row, code, param) => {
    const [line, actual, field] = await faultOf(row);
    expect([line, actual]).toEqual([2, code]);
    if (param !== null || code !== 'json_too_deep') expect(field).toBe(param);
  });

  test('a row that the template refuses', async () => {
    const report = await validate([chatRow(), chat(user, user, assistant)], {}, alternating);
    expect(report.errors).toMatchObject([{ line: 2, code: 'template_rejects' }]);
    expect(report.errors[0]!.message).toContain('roles must alternate');
  });

  test('a file that is not UTF-8', async () => {
    const report = await validate(
      Buffer.concat([
        Buffer.from(`${JSON.stringify(chatRow())}\n{"a":"`),
        Buffer.from([0xff]),
        Buffer.from('"}\n'),
      ]),
    );
    expect(report.errors).toMatchObject([{ line: 2, code: 'invalid_encoding' }]);
  });

  test('every fault of a row is reported, and the bad line is quoted escaped and short', async () => {
    const report = await validate([chat({ role: 'x' }, { role: 'user', content: 1, foo: 2 })]);
    expect(report.errors.map((e) => e.code)).toEqual([
      'invalid_role',
      'unknown_field',
      'invalid_type',
      'no_assistant_message',
    ]);
    const quoted = (await validate(`\u0007${'\u202e'.repeat(200)}\n`)).errors[0]!.message;
    expect(quoted).toContain('\\u0007\\u202e');
    expect(quoted).not.toContain('\u202e');
    expect(quoted.length).toBeLessThan(700);
  });
});

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
