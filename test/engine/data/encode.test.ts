import { describe, expect, test } from 'vitest';
import { ignoredTarget } from '../../../workers/engine/data/encode.ts';
import { readExample, type SupervisedExample } from '../../../workers/engine/data/formats.ts';
import { loadTokenizer, type Tokenizer } from '../../../workers/engine/tokenizer/load.ts';
import { byteTokenizer, modelFolder, thinkingTemplate } from '../tokenizer/fixture.ts';
import { type EncodedExample, encodeExample } from './encoded.ts';
import { plain, tiny } from './fixture.ts';

const options = { maxLength: 512, overlong: 'truncate' } as const;

function example(
  row: Record<string, unknown>,
  format: Parameters<typeof readExample>[1] = 'chat',
): SupervisedExample {
  const read = readExample(row, format, (code, path) => {
    throw new Error(`${code} ${path}`);
  });
  return read as SupervisedExample;
}

/** The text that is learned, one string per stretch of targets. */
function learned(encoded: EncodedExample, tokenizer: Tokenizer = tiny): string[] {
  const stretches: number[][] = [];
  let open = false;
  for (const target of encoded.targets) {
    if (target === ignoredTarget) open = false;
    else {
      if (!open) stretches.push([]);
      stretches[stretches.length - 1]!.push(target);
      open = true;
    }
  }
  return stretches.map((ids) => tokenizer.decode(ids));
}

const messages = [
  { role: 'system', content: 'S' },
  { role: 'user', content: 'one' },
  { role: 'assistant', content: 'first answer' },
  { role: 'user', content: 'two' },
  { role: 'assistant', content: 'second answer' },
];

describe('labels of a conversation', () => {
  test('every assistant message learns, its end token included, and nothing else', () => {
    const encoded = encodeExample(example({ messages }), tiny, options)!;
    expect(learned(encoded)).toEqual(['first answer<|im_end|>', 'second answer<|im_end|>']);
    expect(tiny.decode(encoded.ids)).toBe(
      '<|im_start|>system\nS<|im_end|>\n<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\nfirst answer<|im_end|>\n' +
        '<|im_start|>user\ntwo<|im_end|>\n<|im_start|>assistant\nsecond answer',
    );
  });

  test('targets are the next id of the rendered conversation', () => {
    const { ids, targets } = encodeExample(example({ messages }), tiny, options)!;
    for (let i = 0; i + 1 < ids.length; i++)
      if (targets[i] !== ignoredTarget) expect(targets[i]).toBe(ids[i + 1]);
    expect(targets[targets.length - 1]).toBe(tiny.eosIds[0]);
  });

  test('the prompt is encoded as it will be at inference', () => {
    const { ids } = encodeExample(example({ messages: messages.slice(0, 3) }), tiny, options)!;
    const prompt = tiny.template!.renderToIds(messages.slice(0, 2) as never, { addGenerationPrompt: true });
    expect([...ids.slice(0, prompt.length)]).toEqual(prompt);
  });

  test('weight 0 is read but not learned', () => {
    const weighted = messages.map((m, i) => (i === 2 ? { ...m, weight: 0 } : m));
    expect(learned(encodeExample(example({ messages: weighted }), tiny, options)!)).toEqual([
      'second answer<|im_end|>',
    ]);
    const lastOff = messages.map((m, i) => (i === 4 ? { ...m, weight: 0 } : m));
    const encoded = encodeExample(example({ messages: lastOff }), tiny, options)!;
    expect(learned(encoded)).toEqual(['first answer<|im_end|>']);
    expect(tiny.decode(encoded.ids)).not.toContain('two');
  });

  test('tool calls are learned, tool answers are not', () => {
    const call = { id: 'c', type: 'function', function: { name: 'f', arguments: '{"a": 1}' } };
    const row = {
      tools: [{ type: 'function', function: { name: 'f' } }],
      messages: [
        messages[1],
        { role: 'assistant', content: null, tool_calls: [call] },
        { role: 'tool', tool_call_id: 'c', content: '4' },
        messages[4],
      ],
    };
    expect(learned(encodeExample(example(row), tiny, options)!)).toEqual([
      'call f {"a": 1}<|im_end|>',
      'second answer<|im_end|>',
    ]);
  });

  test('end tokens written by a user or in an answer do not end the span', () => {
    const row = {
      messages: [
        { role: 'user', content: 'a<|im_end|>' },
        { role: 'assistant', content: 'b<|im_end|>c' },
      ],
    };
    const encoded = encodeExample(example(row), tiny, options)!;
    expect(learned(encoded)).toEqual(['b<|im_end|>c<|im_end|>']);
    expect([...encoded.ids].filter((id) => tiny.isSpecial(id))).toHaveLength(3);
  });

  test('a template that renders finished answers differently (Qwen3) still gives whole answers', () => {
    const tokenizer = loadTokenizer(modelFolder(byteTokenizer(), thinkingTemplate));
    const encoded = encodeExample(example({ messages }), tokenizer, options)!;
    expect(learned(encoded, tokenizer)).toEqual([
      'first answer<|im_end|>',
      '<think>\n\n</think>\n\nsecond answer<|im_end|>',
    ]);
  });

  test('a template that rewrites the past is refused', () => {
    const rewriting =
      '{{ messages | length }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}A:{% endif %}';
    const tokenizer = loadTokenizer(modelFolder(byteTokenizer(), rewriting));
    expect(() => encodeExample(example({ messages }), tokenizer, options)).toThrow(
      /renders the start of the conversation differently/,
    );
  });
});

describe('pairs', () => {
  test('are a conversation for a model with a template', () => {
    const pair = encodeExample(example({ prompt: 'one', completion: 'two' }, 'completion'), tiny, options)!;
    const talk = encodeExample(
      example({
        messages: [
          { role: 'user', content: 'one' },
          { role: 'assistant', content: 'two' },
        ],
      }),
      tiny,
      options,
    )!;
    expect(pair).toEqual(talk);
  });

  test('are plain text for a model without one: the completion and the end token learn', () => {
    const { ids, targets } = encodeExample(
      example({ prompt: 'ab', completion: 'cd' }, 'completion'),
      plain,
      options,
    )!;
    expect([...ids]).toEqual([97, 98, 99, 100]);
    expect([...targets]).toEqual([ignoredTarget, 99, 100, 258]);
  });

  test('alpaca joins instruction and input by a newline; src/tgt lists are turns', () => {
    const alpaca = example({ instruction: 'a', input: 'b', output: 'c' }, 'alpaca');
    expect(alpaca).toEqual({ kind: 'completion', prompt: 'a\nb', completion: 'c' });
    const turns = example({ src: ['a', 'c'], tgt: ['b', 'd'], context: { system: 's' } }, 'src_tgt');
    expect(learned(encodeExample(turns, tiny, options)!)).toEqual(['b<|im_end|>', 'd<|im_end|>']);
    expect(tiny.decode(encodeExample(turns, tiny, options)!.ids)).toMatch(
      /^<\|im_start\|>system\ns<\|im_end\|>/,
    );
  });
});

describe('over-long examples', () => {
  test('keep their first maxLength tokens', () => {
    const whole = encodeExample(example({ messages }), tiny, options)!;
    const cut = encodeExample(example({ messages }), tiny, { maxLength: 20, overlong: 'truncate' })!;
    expect(cut.truncated).toBe(true);
    expect(whole.truncated).toBe(false);
    expect([...cut.ids]).toEqual([...whole.ids.slice(0, cut.ids.length)]);
    expect(cut.ids.length).toBeLessThanOrEqual(19);
    expect(learned(cut)).toHaveLength(1);
  });

  test('exactly maxLength tokens fit', () => {
    const whole = encodeExample(example({ messages }), tiny, options)!;
    const fits = encodeExample(example({ messages }), tiny, {
      maxLength: whole.ids.length + 1,
      overlong: 'error',
    })!;
    expect(fits).toEqual(whole);
    expect(() =>
      encodeExample(example({ messages }), tiny, { maxLength: whole.ids.length, overlong: 'error' }),
    ).toThrow(/longer than/);
    expect(
      encodeExample(example({ messages }), tiny, { maxLength: whole.ids.length, overlong: 'drop' }),
    ).toBeNull();
  });
});
