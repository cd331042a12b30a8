/**
 * The row shapes that a training file may have, and one normal form for each method. Checks every field; knows neither
 * tokens nor files. Formats: OpenAI chat, prompt/completion, Alpaca, src/tgt; preference pairs as OpenAI and as TRL write them.
 */
import type { ChatMessage } from '../tokenizer/chat-template.ts';
import { chatExample } from './chat-rows.ts';
import { countingReport, type Report } from './issues.ts';
import { preferenceExample, promptChosenRejectedExample } from './preference-rows.ts';
import {
  type ChatExample,
  type Example,
  type Row,
  refuseUnknownFields,
  type SupervisedExample,
  stringField,
} from './row-fields.ts';

export type { Example, Row, SupervisedExample } from './row-fields.ts';

export type Format = 'chat' | 'completion' | 'alpaca' | 'src_tgt' | 'preference' | 'prompt_chosen_rejected';

/** What a job optimises, as far as its data is concerned. */
export type DataMethod = 'supervised' | 'dpo';

const formatNames: Record<Format, string> = {
  chat: 'chat messages',
  completion: 'prompt/completion pairs',
  alpaca: 'instruction/output rows',
  src_tgt: 'src/tgt rows',
  preference: 'preference pairs',
  prompt_chosen_rejected: 'prompt/chosen/rejected rows',
};

/** The names OpenAI's messages have for formats; ours continue the series. */
const wireNames: Record<Format, string> = {
  chat: 'fine-tune-chat',
  completion: 'fine-tune-completion',
  alpaca: 'fine-tune-instruction',
  src_tgt: 'fine-tune-src-tgt',
  preference: 'fine-tune-preference',
  prompt_chosen_rejected: 'fine-tune-prompt-chosen-rejected',
};

/** The method that learns from rows of this format. */
export function methodOf(format: Format): DataMethod {
  return format === 'preference' || format === 'prompt_chosen_rejected' ? 'dpo' : 'supervised';
}

/** The format as OpenAI's messages call it. */
export function wireFormatName(format: Format): string {
  return wireNames[format];
}

/** The format of a row by the keys it has, or null when it is none of them. */
export function detectFormat(row: Row): Format | null {
  if ('preferred_output' in row || 'non_preferred_output' in row) return 'preference';
  if ('chosen' in row || 'rejected' in row) return 'prompt_chosen_rejected';
  if ('messages' in row) return 'chat';
  if ('prompt' in row || 'completion' in row) return 'completion';
  if ('instruction' in row) return 'alpaca';
  if ('src' in row || 'tgt' in row) return 'src_tgt';
  if ('input' in row) return 'preference';
  return null;
}

export function formatName(format: Format): string {
  return formatNames[format];
}

function completionRow(row: Row, report: Report): SupervisedExample | null {
  refuseUnknownFields(row, ['prompt', 'completion'], '', report);
  const prompt = stringField(row, 'prompt', 'prompt', report);
  const completion = stringField(row, 'completion', 'completion', report);
  return prompt === null || completion === null ? null : { kind: 'completion', prompt, completion };
}

/** Alpaca: the request is the instruction, and the input on the next line when there is one. */
function alpacaRow(row: Row, report: Report): SupervisedExample | null {
  refuseUnknownFields(row, ['instruction', 'input', 'output', 'system'], '', report);
  const instruction = stringField(row, 'instruction', 'instruction', report);
  const input =
    row.input === undefined || row.input === null ? '' : stringField(row, 'input', 'input', report);
  const output = stringField(row, 'output', 'output', report);
  const system =
    row.system === undefined || row.system === null ? '' : stringField(row, 'system', 'system', report);
  if (instruction === null || input === null || output === null || system === null) return null;
  const prompt = input === '' ? instruction : `${instruction}\n${input}`;
  return system === ''
    ? { kind: 'completion', prompt, completion: output }
    : conversation(system, [prompt], [output]);
}

function stringList(row: Row, key: 'src' | 'tgt', report: Report): string[] | null {
  const value = row[key];
  if (!Array.isArray(value)) {
    const single = stringField(row, key, key, report);
    return single === null ? null : [single];
  }
  const items = value.map((_, i) => stringField(value as unknown as Row, String(i), `${key}[${i}]`, report));
  return items.includes(null) ? null : (items as string[]);
}

/** src/tgt: strings, or lists of equal length (the turns of a conversation), with an optional context.system. */
function sourceTargetRow(row: Row, report: Report): SupervisedExample | null {
  refuseUnknownFields(row, ['src', 'tgt', 'context'], '', report);
  const src = stringList(row, 'src', report);
  const tgt = stringList(row, 'tgt', report);
  let system = '';
  if (row.context !== undefined) {
    const context = row.context;
    if (typeof context !== 'object' || context === null || Array.isArray(context)) {
      report('invalid_type', 'context', 'must be an object');
      return null;
    }
    refuseUnknownFields(context as Row, ['system'], 'context', report);
    const given = stringField(context as Row, 'system', 'context.system', report);
    if (given === null) return null;
    system = given;
  }
  if (src === null || tgt === null) return null;
  if (src.length !== tgt.length || src.length === 0) {
    report(
      'invalid_value',
      'tgt',
      `src has ${src.length} turns and tgt has ${tgt.length}; they must be equal and at least 1`,
    );
    return null;
  }
  if (src.length === 1 && system === '') return { kind: 'completion', prompt: src[0]!, completion: tgt[0]! };
  return conversation(system, src, tgt);
}

function conversation(system: string, questions: readonly string[], answers: readonly string[]): ChatExample {
  const messages: ChatMessage[] = system === '' ? [] : [{ role: 'system', content: system }];
  questions.forEach((question, i) => {
    messages.push({ role: 'user', content: question }, { role: 'assistant', content: answers[i]! });
  });
  return { kind: 'chat', messages, learn: messages.map((m) => m.role === 'assistant'), tools: [] };
}

/**
 * A row of the given format in normal form; null when anything was reported.
 */
export function readExample(row: Row, format: Format, report: Report): Example | null {
  const counted = countingReport(report);
  const readers = {
    chat: chatExample,
    completion: completionRow,
    alpaca: alpacaRow,
    src_tgt: sourceTargetRow,
    preference: preferenceExample,
    prompt_chosen_rejected: promptChosenRejectedExample,
  };
  const example = readers[format](row, counted.report);
  return counted.faults() === 0 ? example : null;
}

/** A prompt/completion pair as a conversation, for models that are spoken to through a chat template. */
export function asConversation(example: SupervisedExample): ChatExample {
  if (example.kind === 'chat') return example;
  return conversation('', [example.prompt], [example.completion]);
}
