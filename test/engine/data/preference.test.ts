// Preference rows: what is learned, every fault with its line and field, and files of the wrong format for the method.
import { describe, expect, test } from 'vitest';
import type { DataReport } from '../../../workers/engine/data/validate.ts';
import { loadDataset } from '../../../workers/engine/data/validate.ts';
import { chatRow, dataFile, tiny } from './fixture.ts';

const options = { maxLength: 512, overlong: 'truncate', minExamples: 1, method: 'dpo' } as const;
const user = { role: 'user', content: 'What is two and two?' };
const good = { role: 'assistant', content: 'Four.' };
const bad = { role: 'assistant', content: 'It is seven or so.' };

const pair = (change: Record<string, unknown> = {}) => ({
  input: { messages: [user] },
  preferred_output: [good],
  non_preferred_output: [bad],
  ...change,
});

const validate = async (rows: readonly unknown[], more: object = {}): Promise<DataReport> =>
  (await loadDataset(dataFile(rows), tiny, { ...options, ...more })).report;

describe('a preference row', () => {
  test('becomes two sequences with the same prompt, the answers learned with their end', async () => {
    const messages = [
      { role: 'system', content: 'Be short.' },
      user,
      { role: 'assistant', content: 'Why?' },
      { role: 'user', content: 'For school.' },
    ];
    const { dataset, report } = await loadDataset(dataFile([pair({ input: { messages } })]), tiny, options);
    expect(report).toMatchObject({ format: 'preference', examples: 1, errorsTotal: 0, warnings: [] });
    const texts = dataset.get(0).map(({ ids, targets }) => {
      const first = targets.findIndex((target) => target !== -100);
      const learned = [...targets].filter((target) => target !== -100);
      expect(targets.slice(first).every((target) => target !== -100)).toBe(true);
      return { prompt: [...ids.slice(0, first + 1)], answer: tiny.decode(learned, { skipSpecial: false }) };
    });
    expect(texts[0]!.prompt).toEqual(texts[1]!.prompt);
    expect(tiny.decode(texts[0]!.prompt)).toContain('Why?');
    expect(texts.map(({ answer }) => answer)).toEqual(['Four.<|im_end|>', 'It is seven or so.<|im_end|>']);
    expect(report.labelledTokens).toBe(dataset.labelledTokens);
    expect([report.tokens, report.longest]).toEqual([dataset.tokens, dataset.longest]);
  });

  test('may carry tools and text parts', async () => {
    const tool = { type: 'function', function: { name: 'f', parameters: {} } };
    const parts = { role: 'assistant', content: [{ type: 'text', text: 'Four.' }] };
    const report = await validate([
      pair({ input: { messages: [user], tools: [tool], parallel_tool_calls: false } }),
      pair({ preferred_output: [parts] }),
    ]);
    expect(report).toMatchObject({ examples: 2, errorsTotal: 0 });
  });

  test.each([
    ['no input', pair({ input: undefined }), 'missing_field', 'input'],
    ['input that is a list', pair({ input: [user] }), 'invalid_type', 'input'],
    [
      'the same answer twice',
      pair({ non_preferred_output: [good] }),
      'identical_preference',
      'non_preferred_output',
    ],
    ['no messages', pair({ input: {} }), 'invalid_type', 'input.messages'],
    ['empty messages', pair({ input: { messages: [] } }), 'empty_array', 'input.messages'],
    ['a bad role', pair({ input: { messages: [{ role: 'x' }] } }), 'invalid_role', 'input.messages[0].role'],
    [
      'a weight',
      pair({ input: { messages: [user, { ...good, weight: 1 }, user] } }),
      'unknown_field',
      'input.messages[1].weight',
    ],
    ['bad tools', pair({ input: { messages: [user], tools: {} } }), 'invalid_tools', 'input.tools'],
    ['an unknown field', pair({ foo: 1 }), 'unknown_field', 'foo'],
    ['an unknown input field', pair({ input: { messages: [user], foo: 1 } }), 'unknown_field', 'input.foo'],
    ['no other answer', pair({ non_preferred_output: undefined }), 'missing_field', 'non_preferred_output'],
    ['an answer that is text', pair({ preferred_output: 'Four.' }), 'invalid_type', 'preferred_output'],
    ['no answer', pair({ preferred_output: [] }), 'empty_array', 'preferred_output'],
    ['two answers', pair({ preferred_output: [good, good] }), 'array_above_max_length', 'preferred_output'],
    ['a user as answer', pair({ preferred_output: [user] }), 'invalid_role', 'preferred_output[0].role'],
    [
      'an answer that calls a tool',
      pair({ preferred_output: [{ role: 'assistant', content: null, tool_calls: [] }] }),
      'unsupported_content',
      'preferred_output[0].tool_calls',
    ],
    [
      'an answer without content',
      pair({ preferred_output: [{ role: 'assistant' }] }),
      'missing_field',
      'preferred_output[0].content',
    ],
    [
      'an image as answer',
      pair({ preferred_output: [{ role: 'assistant', content: [{ type: 'image_url' }] }] }),
      'unsupported_content',
      'preferred_output[0].content[0].type',
    ],
    [
      'the old field names',
      { input: { messages: [user] }, preferred_completion: [good] },
      'unknown_field',
      'preferred_completion',
    ],
  ])('%s is reported', async (_name, row, code, param) => {
    const report = await validate([pair(), row]);
    expect(report.errors[0]).toMatchObject({ line: 2, code, param });
    expect(report.errors[0]!.message).toContain('line 2');
  });

  test('that leaves no room for an answer names the answer', async () => {
    const report = await validate([
      pair({ input: { messages: [{ role: 'user', content: 'x '.repeat(600) }] } }),
    ]);
    expect(report.errors).toMatchObject([
      { line: 1, code: 'no_trainable_tokens', param: 'preferred_output' },
    ]);
  });

  test('that is too long is cut, left out or refused as a whole', async () => {
    const long = pair({ non_preferred_output: [{ role: 'assistant', content: 'no '.repeat(600) }] });
    expect(await validate([long])).toMatchObject({ examples: 1, truncated: 1, errorsTotal: 0 });
    expect(await validate([long, pair()], { overlong: 'drop' })).toMatchObject({ examples: 1, dropped: 1 });
    const refused = await validate([long], { overlong: 'error' });
    expect(refused.errors).toMatchObject([{ code: 'example_too_long', param: 'non_preferred_output' }]);
  });
});

describe("TRL's shape", () => {
  const messages = { prompt: [user], chosen: [good], rejected: [bad] };
  const texts = { prompt: user.content, chosen: good.content, rejected: bad.content };

  test('gives the same tokens as OpenAI does, from texts and from messages', async () => {
    const load = async (row: object) => {
      const { dataset, report } = await loadDataset(dataFile([row]), tiny, options);
      return { format: report.format, sequences: dataset.get(0) };
    };
    const openai = await load(pair());
    for (const row of [messages, texts]) {
      expect(await load(row)).toEqual({ ...openai, format: 'prompt_chosen_rejected' });
    }
  });

  test.each([
    ['no rejected text', { prompt: 'a', chosen: 'b' }, 'missing_field', 'rejected'],
    ['a number as answer', { prompt: 'a', chosen: 1, rejected: 'c' }, 'invalid_type', 'chosen'],
    ['no prompt', { chosen: 'b', rejected: 'c' }, 'missing_field', 'prompt'],
    ['a bad role in the prompt', { ...messages, prompt: [{ role: 'x' }] }, 'invalid_role', 'prompt[0].role'],
    ['an empty prompt', { ...messages, prompt: [] }, 'empty_array', 'prompt'],
    ['two answers', { ...messages, rejected: [bad, bad] }, 'array_above_max_length', 'rejected'],
    ['bad tools', { ...messages, tools: 7 }, 'invalid_tools', 'tools'],
    ['bad tools beside texts', { ...texts, tools: 7 }, 'invalid_tools', 'tools'],
    ['an unknown field', { ...texts, score: 1 }, 'unknown_field', 'score'],
  ])('%s is reported under its own names', async (_name, row, code, param) => {
    const report = await validate([texts, row]);
    expect(report.errors).toMatchObject([{ line: 2, code, param }]);
  });
});

describe('a file for another method', () => {
  test('chat rows for DPO, in the recorded words', async () => {
    const report = await validate([chatRow(1), chatRow(2)], { fileId: 'file-X' });
    expect(report.errors).toEqual([
      {
        line: null,
        code: 'invalid_training_file',
        param: 'training_file',
        message:
          "Input file file-X is in the fine-tune-chat format, but the specified fine-tuning job is not using 'supervised' as the training method (provided method=dpo).",
      },
    ]);
  });

  test('preference rows for supervised training', async () => {
    const report = await validate([pair()], { method: 'supervised', what: 'Validation file' });
    expect(report.errors).toMatchObject([
      { line: null, code: 'invalid_validation_file', param: 'validation_file' },
    ]);
    expect(report.errors[0]!.message).toContain(
      "fine-tune-preference format, but the specified fine-tuning job is not using 'dpo'",
    );
  });

  test('rows of no format for DPO lack an input', async () => {
    const report = await validate([{ text: 'x' }, { text: 'y' }]);
    expect(report.errors).toMatchObject([
      { line: 1, code: 'invalid_file_format', param: 'input' },
      { line: 2, code: 'invalid_file_format' },
    ]);
    expect(report.errors[0]!.message).toBe("line 1, input: Example 1 is missing key 'input'");
  });
});
