/** Checks one row of OpenAI's chat format: messages, tools, weights. One report per fault, with the field's path. */
import { countingReport, type Report } from './issues.ts';
import { type ChatExample, isObject, type Row, refuseUnknownFields, stringField } from './row-fields.ts';
import { checkToolCalls, checkTools, isName, normalMessage, toolsOf } from './tool-rows.ts';

const roles = ['system', 'developer', 'user', 'assistant', 'tool', 'function'] as const;
const maxMessages = 1024;

const fieldsOf: Record<(typeof roles)[number], readonly string[]> = {
  system: ['role', 'content', 'name'],
  developer: ['role', 'content', 'name'],
  user: ['role', 'content', 'name'],
  assistant: ['role', 'content', 'name', 'tool_calls', 'function_call', 'weight'],
  tool: ['role', 'content', 'tool_call_id', 'name'],
  function: ['role', 'content', 'name'],
};
/** Fields of an answer of the API that rows made from answers still carry; with a value they cannot be learned. */
const answerFields = ['refusal', 'audio', 'annotations', 'parsed'] as const;

/** Checks `content`: text, or a list of text parts; null only where tool calls stand in for it, or of a function. */
export function checkContent(message: Row, path: string, report: Report): void {
  const { content } = message;
  const field = `${path}.content`;
  if (content === undefined || content === null) {
    if (message.role === 'function' && content === null) return;
    if (message.role === 'assistant' && isObject(message.function_call)) return;
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

/** Refuses unknown fields of an assistant message; those of the API's answers may be there as long as they are empty. */
export function checkAnswerFields(
  message: Row,
  allowed: readonly string[],
  path: string,
  report: Report,
): void {
  refuseUnknownFields(message, [...allowed, ...answerFields], path, report);
  for (const field of answerFields) {
    const value = message[field];
    if (value === undefined || value === null || (Array.isArray(value) && value.length === 0)) continue;
    report('unsupported_content', `${path}.${field}`, `"${field}" cannot be learned; only null is taken`);
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
    report('invalid_role', `${path}.role`, `${given} is not one of ${roles.join(', ')}`);
    return;
  }
  if (role === 'assistant') checkAnswerFields(message, fieldsOf.assistant, path, report);
  else refuseUnknownFields(message, fieldsOf[role], path, report);
  checkContent(message, path, report);
  if (role === 'function') {
    if (!isName(message.name)) report('invalid_tool_call', `${path}.name`, 'must name a function');
  } else if (message.name !== undefined && message.name !== null)
    stringField(message, 'name', `${path}.name`, report);
  if (role === 'assistant') {
    checkToolCalls(message, path, announced, report);
    if (!([undefined, null, 0, 1] as unknown[]).includes(message.weight)) {
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

/**
 * Checks `messages`, `tools` (or `functions`) and `parallel_tool_calls` of `row`, an object that stands at `path` of the line; unknown
 * fields are reported. Null when there is no list of messages.
 */
export function checkConversation(row: Row, path: string, report: Report): unknown[] | null {
  const at = (field: string) => (path === '' ? field : `${path}.${field}`);
  refuseUnknownFields(row, ['messages', 'tools', 'parallel_tool_calls', 'functions'], path, report);
  checkTools(row, at, report);
  if (typeof (row.parallel_tool_calls ?? false) !== 'boolean') {
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
  return messages;
}

/** A chat row in normal form; null when anything was reported. */
export function chatExample(row: Row, told: Report): ChatExample | null {
  const { report, faults } = countingReport(told);
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
  if (faults() > 0) return null;
  const rows = messages as Row[];
  return {
    kind: 'chat',
    messages: rows.map(normalMessage),
    learn: rows.map(({ role, weight }) => role === 'assistant' && weight !== 0),
    tools: toolsOf(row),
  };
}
