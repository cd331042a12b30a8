/**
 * Tools in a row: the list that is offered and the calls of an assistant message, in today's form and in OpenAI's first
 * one (`functions`, `function_call`, role `function`), which means the same. Knows single fields, not conversations.
 */
import type { ChatMessage } from '../tokenizer/chat-template.ts';
import type { Report } from './issues.ts';
import { isObject, maxStringChars, type Row, refuseUnknownFields } from './row-fields.ts';

const maxTools = 128;
const namePattern = /^[A-Za-z0-9_-]{1,64}$/;
const nameFault = 'must be 1 to 64 letters, digits, "_" or "-"';

/** Checks the calls of an assistant message; their ids go to `announced`. */
export function checkToolCalls(message: Row, path: string, announced: Set<string>, report: Report): void {
  const calls = message.tool_calls;
  if (message.function_call !== undefined && message.function_call !== null) {
    checkCall(message.function_call, `${path}.function_call`, report);
    if (calls !== undefined && calls !== null)
      report('invalid_tool_call', `${path}.function_call`, 'cannot stand beside "tool_calls"');
  }
  if (calls === undefined || calls === null) return;
  if (!Array.isArray(calls) || calls.length === 0) {
    report('invalid_tool_call', `${path}.tool_calls`, 'must be a non-empty list');
    return;
  }
  calls.forEach((call: unknown, i) => {
    const at = `${path}.tool_calls[${i}]`;
    if (!isObject(call) || !isObject(call.function)) {
      report('invalid_tool_call', at, 'must be an object with a "function"');
      return;
    }
    refuseUnknownFields(call, ['id', 'type', 'function', 'index'], at, report);
    if (typeof call.id !== 'string' || call.id === '')
      report('invalid_tool_call', `${at}.id`, 'must be a string');
    else announced.add(call.id);
    if (call.type !== 'function') report('invalid_tool_call', `${at}.type`, 'must be "function"');
    checkCall(call.function, `${at}.function`, report);
  });
}

function checkCall(call: unknown, at: string, report: Report): void {
  if (!isObject(call)) {
    report('invalid_tool_call', at, 'must be an object with "name" and "arguments"');
    return;
  }
  refuseUnknownFields(call, ['name', 'arguments'], at, report);
  if (!isName(call.name)) report('invalid_tool_call', `${at}.name`, nameFault);
  if (!isJsonObjectText(call.arguments)) {
    report('invalid_tool_call', `${at}.arguments`, 'must be a JSON object written as a string');
  }
}

function isJsonObjectText(value: unknown): boolean {
  if (typeof value !== 'string' || value.length > maxStringChars) return false;
  try {
    return isObject(JSON.parse(value));
  } catch {
    return false;
  }
}

export const isName = (value: unknown) => typeof value === 'string' && namePattern.test(value);

/** Checks `tools` and `functions` of a row that stands at `path` of the line. Neither, null and none at all are alike. */
export function checkTools(row: Row, path: (field: string) => string, report: Report): void {
  const { tools, functions } = row;
  if (tools !== undefined && tools !== null) checkToolList(tools, path('tools'), report);
  if (functions === undefined || functions === null) return;
  const at = path('functions');
  if (Array.isArray(tools) && tools.length > 0)
    report('invalid_tools', at, 'is the old form of "tools" and cannot stand beside it');
  if (!Array.isArray(functions) || functions.length > maxTools) {
    report('invalid_tools', at, `must be a list of at most ${maxTools} functions`);
    return;
  }
  functions.forEach((each: unknown, i) => {
    if (isObject(each)) checkFunction(each, `${at}[${i}]`, report);
    else report('invalid_tools', `${at}[${i}]`, 'must be an object with a "name"');
  });
}

function checkToolList(tools: unknown, path: string, report: Report): void {
  if (!Array.isArray(tools) || tools.length > maxTools) {
    report('invalid_tools', path, `must be a list of at most ${maxTools} tools`);
    return;
  }
  tools.forEach((tool: unknown, i) => {
    const at = `${path}[${i}]`;
    if (!isObject(tool) || tool.type !== 'function' || !isObject(tool.function)) {
      report('invalid_tools', at, 'must be {"type": "function", "function": {…}}');
    } else checkFunction(tool.function, `${at}.function`, report);
  });
}

function checkFunction({ name, description, parameters }: Row, at: string, report: Report): void {
  if (!isName(name)) report('invalid_tools', `${at}.name`, nameFault);
  if (description !== undefined && description !== null && typeof description !== 'string') {
    report('invalid_tools', `${at}.description`, 'must be a string');
  }
  if (parameters !== undefined && parameters !== null && !isObject(parameters)) {
    report('invalid_tools', `${at}.parameters`, 'must be a JSON schema object');
  }
}

/** The tools of a checked row, as a chat completion offers the same ones to the template. */
export function toolsOf({ tools, functions }: Row): unknown[] {
  const offered = Array.isArray(tools) ? tools.map((tool) => (tool as { function: Row }).function) : [];
  const all = offered.length > 0 ? offered : ((functions ?? []) as Row[]);
  return all.map(({ name, description, parameters, strict }) => ({
    type: 'function',
    function: {
      name,
      ...(description ? { description } : {}),
      ...(parameters ? { parameters } : {}),
      ...(strict ? { strict } : {}),
    },
  }));
}

/** A checked message as templates know it: what is null is absent, an old call is a tool call. */
export function normalMessage(message: Row): ChatMessage {
  const { role, content, name, tool_calls, function_call, tool_call_id } = message;
  const calls = function_call ? [{ id: 'call_0', type: 'function', function: function_call }] : tool_calls;
  return {
    role: role === 'function' ? 'tool' : role,
    content,
    ...(name ? { name } : {}),
    ...(calls ? { tool_calls: calls } : {}),
    ...(tool_call_id !== undefined ? { tool_call_id } : {}),
  } as ChatMessage;
}
