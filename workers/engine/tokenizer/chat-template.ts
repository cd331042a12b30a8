/**
 * A model's chat template: OpenAI messages in, rendered text or token ids out. Templates come from model folders only,
 * never from requests. Text of users never yields a control token (see rendered.ts).
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { guardSpecials, type RenderedPart, splitRendered } from './rendered.ts';
import { TemplateError, TemplateProgram } from './template-program.ts';
import { TokenizerError } from './tokenizer-file.ts';

export { TemplateError } from './template-program.ts';

/** A message as OpenAI writes it; `weight` and unknown fields are not shown to the template. */
export interface ChatMessage {
  role: 'system' | 'developer' | 'user' | 'assistant' | 'tool';
  content?: string | null | { type: string; text?: string }[];
  name?: string;
  tool_calls?: { id?: string; type?: string; function: { name: string; arguments: string } }[];
  tool_call_id?: string;
}

export interface RenderOptions {
  tools?: readonly unknown[];
  addGenerationPrompt?: boolean;
  /** Some templates (Qwen3) can switch their thinking block off. */
  enableThinking?: boolean;
}

/** Which prefix of a conversation to render, and whether the assistant's opening follows it. */
export interface Cut {
  messages: number;
  addGenerationPrompt: boolean;
}

/** What a template needs of its tokenizer. */
export interface PartEncoder {
  readonly specialContents: readonly string[];
  encodeRendered(parts: readonly RenderedPart[], limit?: number): number[];
}

const maxTemplateBytes = 256 * 1024;

function toolArguments(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new TemplateError('template_rejects', 'the arguments of a tool call are not valid JSON');
  }
}

/** Plain values for the template: text parts joined, tool arguments as objects (as transformers and vLLM pass them). */
function templateMessage(message: ChatMessage): Record<string, unknown> {
  const { content } = message;
  const text = Array.isArray(content) ? content.map((part) => part.text ?? '').join('') : (content ?? '');
  const plain: Record<string, unknown> = {
    role: message.role === 'developer' ? 'system' : message.role,
    content: text,
  };
  if (message.name !== undefined) plain.name = message.name;
  if (message.tool_call_id !== undefined) plain.tool_call_id = message.tool_call_id;
  if (message.tool_calls !== undefined && message.tool_calls.length > 0) {
    plain.tool_calls = message.tool_calls.map((call) => ({
      ...(call.id === undefined ? {} : { id: call.id }),
      type: 'function',
      function: { name: call.function.name, arguments: toolArguments(call.function.arguments) },
    }));
  }
  return plain;
}

export class ChatTemplate {
  private readonly program: TemplateProgram;
  private readonly encoder: PartEncoder;
  private readonly variables: Record<string, unknown>;

  constructor(
    source: string,
    encoder: PartEncoder,
    options: { bosToken?: string | null; eosToken?: string | null } = {},
  ) {
    this.program = new TemplateProgram(source);
    this.encoder = encoder;
    this.variables = { bos_token: options.bosToken ?? '', eos_token: options.eosToken ?? '' };
  }

  /**
   * Renders several prefixes of one conversation with the same guard, so that the texts can be compared.
   * `parts(text)` cuts one of the texts, or a slice of one, into plain and control parts.
   * @throws TemplateError when the template refuses the messages or breaks a limit (see template-program.ts).
   */
  renderCuts(
    messages: readonly ChatMessage[],
    options: RenderOptions,
    cuts: readonly Cut[],
  ): { texts: string[]; parts: (text: string) => RenderedPart[]; specialsInText: number } {
    const specials = this.encoder.specialContents;
    const guarded = guardSpecials(
      { messages: messages.map(templateMessage), tools: options.tools ?? [] },
      specials,
    );
    const { value, guard } = guarded;
    const base = {
      ...this.variables,
      ...(value.tools.length > 0 ? { tools: value.tools } : {}),
      ...(options.enableThinking === undefined ? {} : { enable_thinking: options.enableThinking }),
    };
    const texts = cuts.map((cut) =>
      this.program.render({
        ...base,
        messages: value.messages.slice(0, cut.messages),
        add_generation_prompt: cut.addGenerationPrompt,
      }),
    );
    return { texts, parts: (text) => splitRendered(text, specials, guard), specialsInText: guarded.found };
  }

  /** The conversation as the model reads it, as text (for people and tests). */
  render(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    return this.renderToParts(messages, options)
      .map((part) => part.text)
      .join('');
  }

  renderToParts(messages: readonly ChatMessage[], options: RenderOptions = {}): RenderedPart[] {
    const cut = { messages: messages.length, addGenerationPrompt: options.addGenerationPrompt ?? false };
    const { texts, parts } = this.renderCuts(messages, options, [cut]);
    return parts(texts[0]!);
  }

  /** Token ids of the conversation; at least the first `limit` of them when a limit is given. */
  renderToIds(messages: readonly ChatMessage[], options: RenderOptions & { limit?: number } = {}): number[] {
    return this.encoder.encodeRendered(this.renderToParts(messages, options), options.limit);
  }
}

/**
 * The template of a model folder: chat_template.jinja, else tokenizer_config.json's `chat_template` (a string, or a list
 * of named ones of which "default" is taken), else null.
 */
export function readTemplateSource(dir: string, tokenizerConfig: Record<string, unknown>): string | null {
  const path = join(dir, 'chat_template.jinja');
  let source: unknown = tokenizerConfig.chat_template;
  if (existsSync(path)) {
    if (statSync(path).size > maxTemplateBytes)
      throw new TokenizerError(`${path}: larger than ${maxTemplateBytes} bytes`);
    source = readFileSync(path, 'utf8');
  } else if (Array.isArray(source)) {
    source = source.find((entry) => entry?.name === 'default')?.template;
  }
  if (source === undefined || source === null) return null;
  if (typeof source !== 'string' || source.length > maxTemplateBytes) {
    throw new TokenizerError(`${dir}: chat_template must be text of at most ${maxTemplateBytes} bytes`);
  }
  return source;
}
