/**
 * Checks one row of OpenAI's preference format: {input: {messages, tools?}, preferred_output, non_preferred_output}, one
 * assistant message of text in each output; and TRL's {prompt, chosen, rejected}. One report per fault, with its path.
 */
import { checkAnswerFields, checkContent, checkConversation } from './chat-rows.ts';
import { countingReport, type Report } from './issues.ts';
import {
  isObject,
  type PreferenceExample,
  type Row,
  refuseUnknownFields,
  stringField,
} from './row-fields.ts';
import { normalMessage, toolsOf } from './tool-rows.ts';

/** The one assistant message of an output, or null when anything was reported. */
function answerOf(row: Row, key: 'preferred_output' | 'non_preferred_output', report: Report) {
  const output = row[key];
  if (output === undefined) report('missing_field', key, `"${key}" is required`);
  else if (!Array.isArray(output)) report('invalid_type', key, 'must be a list of one message');
  else if (output.length !== 1) {
    const code = output.length === 0 ? 'empty_array' : 'array_above_max_length';
    report(code, key, `must have exactly one message, but has ${output.length}`);
  } else {
    const [message] = output as [unknown];
    const path = `${key}[0]`;
    if (!isObject(message)) report('invalid_type', path, 'must be an object');
    else if (message.role !== 'assistant') {
      report('invalid_role', `${path}.role`, 'must be "assistant"');
    } else {
      for (const field of ['tool_calls', 'function_call']) {
        if (message[field] === undefined || message[field] === null) continue;
        report('unsupported_content', `${path}.${field}`, 'answers to compare must be text');
        return null;
      }
      checkAnswerFields(message, ['role', 'content', 'name', 'tool_calls', 'function_call'], path, report);
      checkContent(message, path, report);
      return normalMessage(message);
    }
  }
  return null;
}

/** A preference row in normal form; what is wrong with it goes to `told`, and null is returned then. */
export function preferenceExample(row: Row, told: Report): PreferenceExample | null {
  const { report, faults } = countingReport(told);
  refuseUnknownFields(row, ['input', 'preferred_output', 'non_preferred_output'], '', report);
  const preferred = answerOf(row, 'preferred_output', report);
  const nonPreferred = answerOf(row, 'non_preferred_output', report);
  const { input } = row;
  if (input === undefined) report('missing_field', 'input', '"input" is required');
  else if (!isObject(input)) report('invalid_type', 'input', 'must be an object with "messages"');
  else {
    const messages = checkConversation(input, 'input', report);
    messages?.forEach((message, i) => {
      if (isObject(message) && (message.weight ?? null) !== null && message.role === 'assistant') {
        report('unknown_field', `input.messages[${i}].weight`, 'messages of the input are never learned');
      }
    });
    if (messages !== null && preferred !== null && nonPreferred !== null && faults() === 0) {
      const asked = (messages as Row[]).map(normalMessage);
      return { kind: 'preference', input: asked, preferred, nonPreferred, tools: toolsOf(input) };
    }
  }
  return null;
}

/** Where a field of OpenAI's shape stands in TRL's. */
const fieldsOfTrl: [RegExp, string][] = [
  [/^input\.messages/, 'prompt'],
  [/^input\./, ''],
  [/^preferred_output/, 'chosen'],
  [/^non_preferred_output/, 'rejected'],
];

/**
 * TRL's shape in the same normal form: {prompt, chosen, rejected} as three texts, or as lists of messages (with tools).
 */
export function promptChosenRejectedExample(row: Row, report: Report): PreferenceExample | null {
  refuseUnknownFields(row, ['prompt', 'chosen', 'rejected', 'tools'], '', report);
  let { prompt, chosen, rejected } = row;
  if (!Array.isArray(prompt)) {
    const [question, preferred, other] = ['prompt', 'chosen', 'rejected'].map((key) =>
      stringField(row, key, key, report),
    );
    if (question == null || preferred == null || other == null) return null;
    prompt = [{ role: 'user', content: question }];
    [chosen, rejected] = [preferred, other].map((content) => [{ role: 'assistant', content }]);
  }
  const same = {
    input: { messages: prompt, ...(row.tools !== undefined && { tools: row.tools }) },
    preferred_output: chosen,
    non_preferred_output: rejected,
  };
  return preferenceExample(same, (code, path, message) => {
    const found = fieldsOfTrl.find(([pattern]) => pattern.test(path));
    report(code, found ? path.replace(found[0], found[1]) : path, message);
  });
}

/** Whether both answers say the same, so that nothing can be learned from their difference. */
export function answersEqual({ preferred, nonPreferred }: PreferenceExample): boolean {
  return JSON.stringify(preferred.content) === JSON.stringify(nonPreferred.content);
}
