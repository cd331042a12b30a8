/**
 * From what a request asks of its answer (format, tools, tool choice) to the grammar it is decoded under. Free text
 * needs none. Knows schemas and formats of calls; must not know templates, tokens or threads.
 */
import { ApiError, badRequest } from '../../../src/errors.ts';
import { finish, schemaNode } from '../../../src/inference/grammar/json-schema.ts';
import { anyObject } from '../../../src/inference/grammar/json-text.ts';
import { choice, type Node, Rules, repeat, sequence, text } from '../../../src/inference/grammar/nodes.ts';
import { SchemaRefusal } from '../../../src/inference/grammar/refusal.ts';
import type { WireFormat, WireToolChoice } from '../../../src/inference/protocol.ts';
import type { GrammarSource } from '../grammar/messages.ts';
import type { ToolFormat } from './format.ts';

export interface FunctionTool {
  name: string;
  parameters?: unknown;
  strict?: boolean | null;
}

export interface Wanted {
  /** The tools that may be called; none for free or formatted text. */
  tools: readonly FunctionTool[];
  toolFormat: ToolFormat | null;
  choice: WireToolChoice;
  format: WireFormat | null;
}

const NO_PARAMETERS = { type: 'object', properties: {}, required: [], additionalProperties: false };

/** The grammar, or null when any text will do. @throws ApiError 400 for a schema outside the supported subset. */
export function constraintOf({ tools, toolFormat, choice: how, format }: Wanted): GrammarSource | null {
  if (tools.length === 0) return format && { kind: 'ebnf', text: formatGrammar(format) };
  if (!toolFormat)
    throw badRequest("This model's chat template has no tool calls.", 'tools', 'unsupported_parameter');
  const calls = (rules: Rules): Node => callsNode(rules, tools, toolFormat, how.parallel);
  if (how.mode === 'required') return ebnf('tools', calls);
  if (format) return ebnf('response_format', (rules) => choice(formatNode(rules, format), calls(rules)));
  if (how.parallel && !tools.some(({ strict }) => strict)) return null;
  if (
    /[^\s{]/.test(toolFormat.begin.slice(0, toolFormat.begin.indexOf('{') + 1)) &&
    toolFormat.begin.includes('{')
  )
    return taggedText(tools, toolFormat, how.parallel);
  return ebnf('tools', (rules) => choice(otherText(toolFormat.begin.trim()), calls(rules)));
}

function formatGrammar(format: WireFormat): string {
  return ebnf('response_format', (rules) => formatNode(rules, format)).text;
}

function formatNode(rules: Rules, format: WireFormat): Node {
  return format.type === 'json_object'
    ? anyObject(rules)
    : schemaNode(rules, format.schema, format.strict ? { strict: true } : { lenient: true }, 'f');
}

function ebnf(param: string, root: (rules: Rules) => Node): GrammarSource {
  try {
    const rules = new Rules();
    return { kind: 'ebnf', text: finish(rules, root(rules)) };
  } catch (error) {
    if (error instanceof SchemaRefusal) throw invalidSchema(param, error);
    throw error;
  }
}

function invalidSchema(param: string, refusal: SchemaRefusal): ApiError {
  return new ApiError({
    status: 400,
    message: `Invalid schema for '${param}': ${refusal.message}`,
    param,
    code: 'invalid_json_schema',
  });
}

function callsNode(
  rules: Rules,
  tools: readonly FunctionTool[],
  format: ToolFormat,
  parallel: boolean,
): Node {
  const call = rules.define(
    'call',
    choice(...tools.map((tool, index) => callNode(rules, tool, index, format))),
  );
  if (!parallel || format.separator === null) return call;
  return sequence(call, repeat(sequence(text(format.separator), call), 0, null));
}

function callNode(rules: Rules, tool: FunctionTool, index: number, format: ToolFormat): Node {
  const lead = text(format.begin + tool.name + format.middle);
  return sequence(lead, argumentsNode(rules, tool, `t${index}`), text(format.end));
}

function argumentsNode(rules: Rules, { parameters, strict }: FunctionTool, prefix: string): Node {
  return schemaNode(rules, parameters ?? NO_PARAMETERS, strict ? { strict } : { lenient: true }, prefix);
}

/** Free text in which the tag that announces a call begins a valid one. */
function taggedText(tools: readonly FunctionTool[], format: ToolFormat, parallel: boolean): GrammarSource {
  const trigger = format.begin.slice(0, format.begin.indexOf('{')).trim();
  const tags = tools.map((tool) => ({
    type: 'tag',
    begin: format.begin.trimStart() + tool.name + format.middle,
    content: { type: 'grammar', grammar: ebnf('tools', (rules) => argumentsNode(rules, tool, 't')).text },
    end: format.end,
  }));
  const structure = {
    type: 'triggered_tags',
    triggers: [trigger],
    tags,
    at_least_one: false,
    stop_after_first: !parallel,
  };
  return { kind: 'tags', text: JSON.stringify({ type: 'structural_tag', format: structure }) };
}

/** Any text that does not begin with `word`. */
function otherText(word: string): Node {
  const any: Node = { kind: 'chars', ranges: [[1, 0x7f]], wide: true };
  const options: Node[] = [text('')];
  [...word].forEach((character, i) => {
    const before = [...word].slice(0, i).join('');
    const point = character.codePointAt(0)!;
    const other: Node = {
      kind: 'chars',
      ranges: [
        [1, point - 1],
        [point + 1, 0x7f],
      ],
      wide: true,
    };
    options.push(sequence(text(before), other, repeat(any, 0, null)));
    if (i > 0) options.push(text(before));
  });
  return choice(...options);
}
