/** Tool calls in text: formats read from templates, and answers read in pieces of any size. */
import { describe, expect, it } from 'vitest';
import { ChatTemplate } from '../../workers/engine/tokenizer/chat-template.ts';
import { loadTokenizer } from '../../workers/engine/tokenizer/load.ts';
import { type ToolFormat, toolFormatOf } from '../../workers/inference/tools/format.ts';
import { type Part, ToolCallParser } from '../../workers/inference/tools/parser.ts';

const shipped = loadTokenizer(`${import.meta.dirname}/../../models/lathe-tiny`);

const hermes: ToolFormat = {
  begin: '<tool_call>\n{"name": "',
  middle: '", "arguments": ',
  end: '}\n</tool_call>',
  separator: '\n',
};
const llama: ToolFormat = { begin: '{"name": "', middle: '", "parameters": ', end: '}', separator: null };
const words: ToolFormat = { begin: 'call ', middle: ' ', end: '', separator: '\n' };

const encoder = { specialContents: ['<|im_start|>', '<|im_end|>'], encodeRendered: () => [] };

describe('the format of a template', () => {
  it('is found for Hermes and Qwen, Llama 3 and the shipped model', () => {
    const chatml = (call: string) =>
      `{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content }}{%- for c in m.tool_calls or [] %}${call}{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}`;
    const qwen = chatml(
      '{%- if not loop.first %}{{- "\\n" }}{%- endif %}{{- "<tool_call>\\n{\\"name\\": \\"" + c.function.name + "\\", \\"arguments\\": " + (c.function.arguments | tojson) + "}\\n</tool_call>" }}',
    );
    expect(toolFormatOf(new ChatTemplate(qwen, encoder))).toEqual(hermes);
    const bare = `{%- for m in messages %}<|im_start|>{{ m.role }}\n\n{%- if m.tool_calls %}{%- if m.tool_calls | length != 1 %}{{ raise_exception("one call only") }}{%- endif %}{%- set c = m.tool_calls[0].function %}{{- '{"name": "' + c.name + '", "parameters": ' + (c.arguments | tojson) + '}' }}{%- else %}{{ m.content }}{%- endif %}<|im_end|>{%- endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n\n{%- endif %}`;
    expect(toolFormatOf(new ChatTemplate(bare, encoder))).toMatchObject({
      ...llama,
      begin: expect.stringContaining('{"name": "'),
    });
    expect(toolFormatOf(shipped.template!)).toEqual(words);
  });

  it('is none for a template without calls', () => {
    expect(
      toolFormatOf(new ChatTemplate('{% for m in messages %}{{ m.content }}{% endfor %}', encoder)),
    ).toBeNull();
  });
});

/** What comes of `text` in pieces of one, three and all characters, which must not matter. */
function read(format: ToolFormat, text: string): Part[] {
  const results = [1, 3, text.length].map((size) => {
    const parser = new ToolCallParser(format, ['f', 'g']);
    const parts: Part[] = [];
    for (let i = 0; i < text.length; i += size) parts.push(...parser.push(text.slice(i, i + size)));
    parts.push(...parser.finish());
    const merged: Part[] = [];
    for (const part of parts) {
      const last = merged.at(-1);
      if (last && last.type === part.type && last.type !== 'call' && part.type !== 'call')
        last.text += part.text;
      else merged.push({ ...part });
    }
    return merged;
  });
  for (const result of results) expect(result).toEqual(results[0]);
  return results[0]!;
}

const call = (name: string, args: string): Part[] => [
  { type: 'call', name },
  { type: 'arguments', text: args },
];
const said = (text: string): Part[] => [{ type: 'text', text }];

describe('reading calls', () => {
  it('finds them beside text, several in one answer', () => {
    const nested = '{"a": "}{\\"", "b":[1,{"c":2}]}';
    const text = `Let me see.\n<tool_call>\n{"name": "f", "arguments": ${nested}}\n</tool_call>\n<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>`;
    expect(read(hermes, text)).toEqual([...said('Let me see.'), ...call('f', nested), ...call('g', '{}')]);
    expect(read(llama, '{"name": "f", "parameters": {"a": 1}}')).toEqual(call('f', '{"a": 1}'));
    expect(read(llama, '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}')).toEqual([
      ...call('f', '{"a": 1}'),
      ...call('g', '{}'),
    ]);
    expect(read(words, 'ok\ncall f {"a":1}\ncall g {}')).toEqual([
      ...said('ok'),
      ...call('f', '{"a":1}'),
      ...call('g', '{}'),
    ]);
  });

  it('is lenient about white space, the order of keys and quoted arguments', () => {
    expect(read(hermes, '<tool_call>{"arguments":{"x":1},"name":"g"}</tool_call> ok')).toEqual([
      ...call('g', '{"x":1}'),
      ...said(' ok'),
    ]);
    expect(read(hermes, '<tool_call>{"name":"g","arguments":"{\\"a\\":1}"}</tool_call>')).toEqual(
      call('g', '{"a":1}'),
    );
    expect(read(hermes, '<tool_call>{"name":"g"}</tool_call>')).toEqual(call('g', '{}'));
  });

  it('leaves alone what is no call of a known tool', () => {
    const texts: [ToolFormat, string][] = [
      [hermes, '<tool_call>{"name":"zz","arguments":{}}</tool_call> ok'],
      [hermes, 'a < b <tool_ hm'],
      [hermes, '<tool_call>no JSON'],
      [llama, 'Hello {"name": "f"}'],
      [llama, '{"x": 1}'],
      [words, 'I call f {"a":1}'],
      [words, 'call me maybe'],
    ];
    for (const [format, text] of texts) expect(read(format, text)).toEqual(said(text));
  });

  it('keeps what there is of a call that was cut', () => {
    expect(read(hermes, '<tool_call>\n{"name": "f", "arguments": {"a": "xx')).toEqual(call('f', '{"a": "xx'));
    expect(read(hermes, 'x <tool_call>\n{"na')).toEqual(said('x<tool_call>\n{"na'));
  });
});
