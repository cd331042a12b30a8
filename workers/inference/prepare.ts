/**
 * What a request needs before the engine can start it: prompt tokens, the grammar of its answer, and the reader of its
 * tool calls. Knows prompts, tools and grammars by their verbs; must not know sockets, adapters or tensors.
 */
import { badRequest, contextLengthExceeded } from '../../src/errors.ts';
import type { GenerateRequest, WireToolChoice } from '../../src/inference/protocol.ts';
import type { GrammarCompiler } from './grammar/grammars.ts';
import type { CompiledGrammar } from './grammar/messages.ts';
import type { PromptRenderer } from './prompts.ts';
import { checkPromptTokens } from './request.ts';
import { constraintOf, type FunctionTool } from './tools/constraint.ts';
import type { ToolFormat } from './tools/format.ts';

export interface PrepareDeps {
  prompts: PromptRenderer;
  grammars: GrammarCompiler;
  contextLength: number;
  vocabSize: number;
}

export interface Prepared {
  prompt: Int32Array;
  grammar: CompiledGrammar | null;
  /** How tool calls are to be read from the answer; null when there are none to read. */
  tools: { format: ToolFormat; names: string[] } | null;
}

const ANY_TOOL: WireToolChoice = { mode: 'auto', names: null, parallel: true };

/** @throws ApiError 400 for what cannot be rendered, is too long, or asks for an unsupported schema. */
export async function prepare(deps: PrepareDeps, request: GenerateRequest): Promise<Prepared> {
  const choice = request.tool_choice ?? ANY_TOOL;
  const offered = choice.mode === 'none' ? null : request.tools;
  const callable = callableTools(offered, choice);
  const [prompt, constraint] = await Promise.allSettled([
    promptTokens(deps, request, offered),
    constrain(deps, request, callable, choice),
  ]);
  if (prompt.status === 'rejected') throw prompt.reason;
  if (constraint.status === 'rejected') throw constraint.reason;
  const { length } = prompt.value;
  if (length === 0) throw badRequest("Invalid 'prompt': it has no tokens.", 'prompt', 'invalid_value');
  if (length >= deps.contextLength) throw contextLengthExceeded(deps.contextLength, length, 0);
  return { prompt: prompt.value, ...constraint.value };
}

async function promptTokens(
  { prompts, vocabSize }: PrepareDeps,
  request: GenerateRequest,
  tools: unknown[] | null,
): Promise<Int32Array> {
  const { prompt, messages } = request;
  if (prompt === undefined) {
    // A forced answer leaves no room for thoughts: templates that can are told so.
    const forced = request.response_format !== undefined || request.tool_choice?.mode === 'required';
    return prompts.render(messages, tools, forced ? false : (request.enable_thinking ?? null));
  }
  if (typeof prompt === 'string') return prompts.encode(prompt);
  checkPromptTokens(prompt, vocabSize);
  return Int32Array.from(prompt);
}

async function constrain(
  { prompts, grammars }: PrepareDeps,
  request: GenerateRequest,
  tools: FunctionTool[],
  choice: WireToolChoice,
): Promise<Omit<Prepared, 'prompt'>> {
  const toolFormat = tools.length > 0 ? await prompts.toolFormat() : null;
  const format = request.response_format ?? null;
  const source = constraintOf({ tools, toolFormat, choice, format });
  return {
    grammar: source && (await grammars.compile(source, format ? 'response_format' : 'tools')),
    tools: toolFormat && { format: toolFormat, names: tools.map(({ name }) => name) },
  };
}

/** The functions among the offered tools that the choice allows. @throws ApiError 400 for anything else. */
function callableTools(offered: unknown[] | null, { names }: WireToolChoice): FunctionTool[] {
  const functions = (offered ?? []).map((tool, index) => {
    const found = (tool as { function?: Partial<FunctionTool> } | null)?.function;
    if (typeof found?.name === 'string') return found as FunctionTool;
    throw badRequest(
      `Invalid 'tools[${index}]': expected a function with a name.`,
      `tools[${index}]`,
      'invalid_value',
    );
  });
  return names === null ? functions : functions.filter(({ name }) => names.includes(name));
}
