/** Faults of single rows: each is named with its line, code and field. */
import { describe, expect, test } from 'vitest';
import { alternating, chatRow } from './fixture.ts';

import { assistant, call, chat, faultOf, tool, user, validate } from './validated.ts';

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
