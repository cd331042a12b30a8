/** What all row formats share: the normal form of an example and the checks of single fields. */
import type { ChatMessage } from '../tokenizer/chat-template.ts';
import type { Report } from './issues.ts';

export type Row = Record<string, unknown>;

export const maxStringChars = 1024 * 1024;

/** `learn[i]` tells whether the answer in messages[i] is learned (assistant messages only). */
export interface ChatExample {
  kind: 'chat';
  messages: ChatMessage[];
  learn: boolean[];
  tools: unknown[];
}

export interface CompletionExample {
  kind: 'completion';
  prompt: string;
  completion: string;
}

/** Two answers to one conversation. */
export interface PreferenceExample {
  kind: 'preference';
  input: ChatMessage[];
  preferred: ChatMessage;
  nonPreferred: ChatMessage;
  tools: unknown[];
}

/** A row to learn in normal form. */
export type SupervisedExample = ChatExample | CompletionExample;

/** A row in normal form. */
export type Example = SupervisedExample | PreferenceExample;

export function isObject(value: unknown): value is Row {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Reports every key of `row` that is not in `allowed`. */
export function refuseUnknownFields(
  row: Row,
  allowed: readonly string[],
  path: string,
  report: Report,
): void {
  for (const key of Object.keys(row)) {
    const field = path === '' ? key : `${path}.${key}`;
    if (!allowed.includes(key)) report('unknown_field', field, `unknown field "${key.slice(0, 64)}"`);
  }
}

/** A required string field; reports what is wrong with it and returns null then. */
export function stringField(row: Row, key: string, path: string, report: Report): string | null {
  const value = row[key];
  if (value === undefined) report('missing_field', path, `"${key}" is required`);
  else if (typeof value !== 'string') report('invalid_type', path, 'must be a string');
  else if (value.length > maxStringChars) {
    report('string_above_max_length', path, `longer than ${maxStringChars} characters`);
  } else return value;
  return null;
}
