import { describe, expect, test } from 'vitest';
import { detectFormat, type Row, readExample } from '../../../workers/engine/data/formats.ts';
import type { SupervisedExample } from '../../../workers/engine/data/row-fields.ts';
import { encodeExample } from './encoded.ts';
import { tiny } from './fixture.ts';

const options = { maxLength: 512, overlong: 'truncate' } as const;

function faultsOf(row: Row): [code: string, path: string][] {
  const faults: [string, string][] = [];
  readExample(row, detectFormat(row)!, (code, path) => faults.push([code, path]));
  return faults;
}

function encoded(row: Row) {
  const example = readExample(row, detectFormat(row)!, (...fault) => {
    throw new Error(fault.join(' '));
  });
  return encodeExample(example as SupervisedExample, tiny, options);
}

const parameters = { type: 'object', properties: { a: { type: 'integer' } } };
const definition = { name: 'f', description: 'F', parameters };
const called = { name: 'f', arguments: '{"a": 1}' };
const user = { role: 'user', content: 'Add.' };
const answer = { role: 'assistant', content: 'It is 2.' };
const today = {
  messages: [
    user,
    {
      role: 'assistant',
      content: null,
      tool_calls: [{ id: 'call_0', type: 'function', function: called }],
    },
    { role: 'tool', tool_call_id: 'call_0', content: '2' },
    answer,
  ],
  tools: [{ type: 'function', function: definition }],
};

describe("OpenAI's first form of tools", () => {
  const first = {
    messages: [
      user,
      { role: 'assistant', content: null, function_call: called },
      { role: 'function', name: 'f', content: '2' },
      answer,
    ],
    functions: [definition],
  };

  test('is learned as the same tokens as tools are', () => {
    const learned = encoded(first)!;
    expect(learned).toEqual(encoded(today));
    const text = tiny.decode([...learned.targets].filter((id) => id >= 0));
    expect(text).toContain('f {"a": 1}');
  });

  test.each<[string, Row, string, string]>([
    ['both forms', { ...first, tools: today.tools }, 'invalid_tools', 'functions'],
    ['no list', { ...first, functions: {} }, 'invalid_tools', 'functions'],
    ['129 functions', { ...first, functions: Array(129).fill(definition) }, 'invalid_tools', 'functions'],
    ['no function', { ...first, functions: [7] }, 'invalid_tools', 'functions[0]'],
    ['a bad name', { ...first, functions: [{ name: 'a b' }] }, 'invalid_tools', 'functions[0].name'],
    [
      'arguments that are no JSON',
      { messages: [user, { ...answer, function_call: { name: 'f', arguments: 'a' } }] },
      'invalid_tool_call',
      'messages[1].function_call.arguments',
    ],
    [
      'both calls',
      { messages: [user, { ...today.messages[1], function_call: called }, ...today.messages.slice(2)] },
      'invalid_tool_call',
      'messages[1].function_call',
    ],
    [
      'an answer of no function',
      { messages: [user, { role: 'function', content: '2' }, answer] },
      'invalid_tool_call',
      'messages[1].name',
    ],
  ])('is refused with %s', (_, row, code, path) => {
    expect(faultsOf(row)).toContainEqual([code, path]);
  });
});

describe('rows made from answers of the API', () => {
  const empty = {
    name: null,
    refusal: null,
    audio: null,
    annotations: [],
    function_call: null,
    weight: null,
  };

  test('may carry what is empty in them', () => {
    const [asked, call, told, said] = today.messages;
    const row = {
      ...today,
      messages: [
        { ...asked, name: null },
        { ...empty, ...call, tool_calls: [{ index: 0, id: 'call_0', type: 'function', function: called }] },
        { ...told, name: 'f' },
        { ...empty, ...said, tool_calls: null },
      ],
      ...{ functions: null, parallel_tool_calls: null },
    };
    expect(encoded(row)).toEqual(encoded(today));
  });

  test('may offer no tools at all', () => {
    const plain = { messages: [user, answer] };
    expect(encoded({ ...plain, tools: [] })).toEqual(encoded(plain));
    expect(encoded({ ...plain, tools: null, functions: [] })).toEqual(encoded(plain));
  });

  test('cannot teach a refusal', () => {
    const row = { messages: [user, { ...answer, refusal: 'No.' }] };
    expect(faultsOf(row)).toEqual([['unsupported_content', 'messages[1].refusal']]);
  });

  test('may be the answers of a preference', () => {
    const pair = (more: object) => ({
      input: { messages: [user], tools: [], parallel_tool_calls: true },
      preferred_output: [{ ...answer, ...more }],
      non_preferred_output: [{ ...answer, content: 'No.', ...more }],
    });
    const { weight: _, ...given } = empty;
    const read = (row: Row) =>
      readExample(row, 'preference', (...fault) => {
        throw new Error(fault.join(' '));
      });
    expect(read(pair({ ...given, tool_calls: null }))).toEqual(read(pair({})));
    const calling = [{ id: 'a', type: 'function', function: called }];
    expect(faultsOf(pair({ tool_calls: calling }))).toContainEqual([
      'unsupported_content',
      'preferred_output[0].tool_calls',
    ]);
  });
});
