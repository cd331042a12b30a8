/**
 * How a model writes tool calls, read from its own chat template: a conversation with a known call is rendered, and
 * what stands around the call's name and arguments is the format (Hermes and Qwen: `<tool_call>` with JSON; Llama 3:
 * bare JSON; lathe-tiny: a line of words). Knows templates; must not know requests or tokens.
 */
import type { ChatTemplate } from '../../engine/tokenizer/chat-template.ts';

/** A call is written `begin` name `middle` arguments `end`. */
export interface ToolFormat {
  begin: string;
  middle: string;
  end: string;
  /** Between two calls of one answer; null when the template writes one only. */
  separator: string | null;
}

const NAMES = ['probe_alpha', 'probe_beta'] as const;
const ARGUMENTS = /\{\s*"k"\s*:\s*"v"\s*\}/g;
const TOOLS = NAMES.map((name) => ({
  type: 'function',
  function: {
    name,
    description: 'A probe.',
    parameters: { type: 'object', properties: { k: { type: 'string' } } },
  },
}));

/** The format of the template's tool calls; null when it does not write them. */
export function toolFormatOf(template: ChatTemplate): ToolFormat | null {
  const one = writtenCalls(template, 1);
  if (one === null) return null;
  const name = one.indexOf(NAMES[0]);
  const [args] = [...one.matchAll(ARGUMENTS)].filter((match) => match.index > name);
  if (name < 0 || !args) return null;
  const format = {
    begin: one.slice(0, name),
    middle: one.slice(name + NAMES[0].length, args.index),
    end: one.slice(args.index + args[0].length).trimEnd(),
  };
  return { ...format, separator: separatorOf(template, format) };
}

function separatorOf(template: ChatTemplate, { begin, end }: Omit<ToolFormat, 'separator'>): string | null {
  const two = writtenCalls(template, 2);
  const second = two?.indexOf(NAMES[1]) ?? -1;
  if (two === null || second < 0) return null;
  const first = [...two.matchAll(ARGUMENTS)].find((match) => match.index < second);
  if (!first) return null;
  const between = two.slice(first.index + first[0].length, second);
  if (!between.startsWith(end) || !between.endsWith(begin) || between.length < end.length + begin.length)
    return null;
  return between.slice(end.length, between.length - begin.length);
}

/** The text of an assistant's message that consists of `count` calls, as the model would have to write it. */
function writtenCalls(template: ChatTemplate, count: number): string | null {
  const question = { role: 'user' as const, content: 'probe' };
  const tool_calls = NAMES.slice(0, count).map((name, i) => ({
    id: `call_${i}`,
    type: 'function',
    function: { name, arguments: '{"k":"v"}' },
  }));
  try {
    const opening = template.renderToParts([question], { tools: TOOLS, addGenerationPrompt: true }).at(-1);
    const parts = template.renderToParts([question, { role: 'assistant', content: '', tool_calls }], {
      tools: TOOLS,
    });
    const part = parts.findLast(({ text, control }) => !control && text.includes(NAMES[0]));
    if (!part) return null;
    const header = opening && !opening.control ? opening.text : '';
    const answer = part.text.startsWith(header) ? part.text.slice(header.length) : part.text;
    return answer.replace(/^\s*<think>[\s\S]*?<\/think>\s*/, '');
  } catch {
    return null; // the template refuses such a message, which is the answer
  }
}
