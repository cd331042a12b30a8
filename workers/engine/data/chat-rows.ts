/** Checks one row of OpenAI's chat format: messages, tools, weights. One report per fault, with the field's path. */
import type { ChatMessage } from '../tokenizer/chat-template.ts';
import type { Report } from './issues.ts';
import {
  type ChatExample,
  maxStringChars,
  type Row,
  refuseUnknownFields,
  stringField,
} from './row-fields.ts';

const roles = ['system', 'developer', 'user', 'assistant', 'tool'] as const;
const maxMessages = 1024;
const maxTools = 128;
const namePattern = /^[A-Za-z0-9_-]{1,64}$/;

const fieldsOf: Record<(typeof roles)[number], readonly string[]> = {
  system: ['role', 'content', 'name'],
  developer: ['role', 'content', 'name'],
  user: ['role', 'content', 'name'],
  assistant: ['role', 'content', 'name', 'tool_calls', 'weight'],
  tool: ['role', 'content', 'tool_call_id'],
};

export function isObject(value: unknown): value is Row {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Checks `content`: text, or a list of text parts; null only where tool calls stand in for it. */
export function checkContent(message: Row, path: string, report: Report): void {
  const { content } = message;
  const field = `${path}.content`;
  if (content === undefined || content === null) {
    if (message.role === 'assistant' && Array.isArray(message.tool_calls) && message.tool_calls.length > 0)
      return;
    if (content === undefined) report('missing_field', field, '"content" is required');
    else report('invalid_type', field, 'must be a string, not null');
    return;
  }
  if (!Array.isArray(content)) {
    stringField(message, 'content', field, report);
    return;
  }
  if (content.length === 0) report('invalid_type', field, 'must not be an empty list');
  content.forEach((part: unknown, i) => {
    const at = `${field}[${i}]`;
    if (!isObject(part)) report('invalid_type', at, 'must be an object');
    else if (part.type !== 'text') {
      report(
        'unsupported_content',
        `${at}.type`,
        `content of type ${JSON.stringify(part.type)} is not supported, only "text"`,
      );
    } else {
      refuseUnknownFields(part, ['type', 'text'], at, report);
      stringField(part, 'text', `${at}.text`, report);
    }
  });
}

function checkToolCalls(message: Row, path: string, announced: Set<string>, report: Report): void {
  const calls = message.tool_calls;
  if (calls === undefined) return;
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
    refuseUnknownFields(call, ['id', 'type', 'function'], at, report);
    refuseUnknownFields(call.function, ['name', 'arguments'], `${at}.function`, report);
    if (typeof call.id !== 'string' || call.id === '')
      report('invalid_tool_call', `${at}.id`, 'must be a string');
    else announced.add(call.id);
    if (call.type !== 'function') report('invalid_tool_call', `${at}.type`, 'must be "function"');
    const { name } = call.function;
    if (typeof name !== 'string' || !namePattern.test(name)) {
      report('invalid_tool_call', `${at}.function.name`, 'must be 1 to 64 letters, digits, "_" or "-"');
    }
    if (!isJsonObjectText(call.function.arguments)) {
      report('invalid_tool_call', `${at}.function.arguments`, 'must be a JSON object written as a string');
    }
  });
}

function isJsonObjectText(value: unknown): boolean {
  if (typeof value !== 'string' || value.length > maxStringChars) return false;
  try {
    return isObject(JSON.parse(value));
  } catch {
    return false;
  }
}

function checkMessage(message: unknown, path: string, announced: Set<string>, report: Report): void {
  if (!isObject(message)) {
    report('invalid_type', path, 'must be an object');
    return;
  }
  const role = message.role as (typeof roles)[number];
  if (role === undefined) {
    report('missing_field', `${path}.role`, '"role" is required');
    return;
  }
  if (!roles.includes(role)) {
    const given = JSON.stringify(role).slice(0, 40);
    report('invalid_role', `${path}.role`, `${given} is not one of system, developer, user, assistant, tool`);
    return;
  }
  refuseUnknownFields(message, fieldsOf[role], path, report);
  checkContent(message, path, report);
  if (message.name !== undefined) stringField(message, 'name', `${path}.name`, report);
  if (role === 'assistant') {
    checkToolCalls(message, path, announced, report);
    if (message.weight !== undefined && message.weight !== 0 && message.weight !== 1) {
      report('invalid_weight', `${path}.weight`, 'must be 0 or 1');
    }
  }
  if (role === 'tool' && (typeof message.tool_call_id !== 'string' || !announced.has(message.tool_call_id))) {
    report(
      'invalid_tool_call',
      `${path}.tool_call_id`,
      'must name a tool call of an earlier assistant message',
    );
  }
}

function checkTools(tools: unknown, path: string, report: Report): void {
  if (!Array.isArray(tools) || tools.length === 0 || tools.length > maxTools) {
    report('invalid_tools', path, `must be a list of 1 to ${maxTools} tools`);
    return;
  }
  tools.forEach((tool: unknown, i) => {
    const at = `${path}[${i}]`;
    if (!isObject(tool) || tool.type !== 'function' || !isObject(tool.function)) {
      report('invalid_tools', at, 'must be {"type": "function", "function": {…}}');
      return;
    }
    const { name, description, parameters } = tool.function;
    if (typeof name !== 'string' || !namePattern.test(name)) {
      report('invalid_tools', `${at}.function.name`, 'must be 1 to 64 letters, digits, "_" or "-"');
    }
    if (description !== undefined && typeof description !== 'string') {
      report('invalid_tools', `${at}.function.description`, 'must be a string');
    }
    if (parameters !== undefined && !isObject(parameters)) {
      report('invalid_tools', `${at}.function.parameters`, 'must be a JSON schema object');
    }
  });
}

/**
 * Checks `messages`, `tools` and `parallel_tool_calls` of `row`, an object that stands at `path` of the line; unknown
 * fields are reported. Null when there is no list of messages.
 */
export function checkConversation(row: Row, path: string, report: Report): ChatMessage[] | null {
  const at = (field: string) => (path === '' ? field : `${path}.${field}`);
  refuseUnknownFields(row, ['messages', 'tools', 'parallel_tool_calls'], path, report);
  if (row.tools !== undefined && row.tools !== null) checkTools(row.tools, at('tools'), report);
  if (row.parallel_tool_calls !== undefined && typeof row.parallel_tool_calls !== 'boolean') {
    report('invalid_type', at('parallel_tool_calls'), 'must be true or false');
  }
  const { messages } = row;
  if (!Array.isArray(messages)) {
    report('invalid_type', at('messages'), 'must be a list');
    return null;
  }
  if (messages.length === 0) report('empty_array', at('messages'), 'must not be empty');
  if (messages.length > maxMessages)
    report('array_above_max_length', at('messages'), `more than ${maxMessages} messages`);
  const announced = new Set<string>();
  messages.slice(0, maxMessages).forEach((message, i) => {
    checkMessage(message, at(`messages[${i}]`), announced, report);
  });
  return messages as ChatMessage[];
}

/** A chat row in normal form; what is wrong with it goes to `report`. */
export function chatExample(row: Row, report: Report): ChatExample | null {
  const messages = checkConversation(row, '', report);
  if (messages === null) return null;
  const roleOf = (message: unknown) => (isObject(message) ? message.role : undefined);
  if (messages.length > 0 && !messages.some((message) => roleOf(message) === 'assistant')) {
    report('no_assistant_message', 'messages', 'there is no assistant message to learn from');
  } else if (messages.length > 0 && roleOf(messages[messages.length - 1]) !== 'assistant') {
    report(
      'last_message_not_assistant',
      `messages[${messages.length - 1}]`,
      'the last message must be from the assistant',
    );
  }
  return {
    kind: 'chat',
    messages,
    learn: messages.map(
      (message) => roleOf(message) === 'assistant' && (message as unknown as Row).weight !== 0,
    ),
    tools: (row.tools ?? []) as unknown[],
  };
}
