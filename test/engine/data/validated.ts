// Short ways to a report on data, and the pieces that rows are made of.
import { expect } from 'vitest';
import { type DataReport, loadDataset } from '../../../workers/engine/data/validate.ts';
import type { Tokenizer } from '../../../workers/engine/tokenizer/load.ts';
import { chatRow, dataFile, tiny } from './fixture.ts';

export const options = { maxLength: 512, overlong: 'truncate', minExamples: 1 } as const;

export async function validate(
  content: string | Uint8Array | readonly unknown[],
  more = {},
  tokenizer: Tokenizer = tiny,
): Promise<DataReport> {
  return (await loadDataset(dataFile(content), tokenizer, { ...options, ...more })).report;
}

/** A good row, then this one on line 2. */
export async function faultOf(row: unknown): Promise<[number | null, string, string | null]> {
  const line = typeof row === 'string' ? row : JSON.stringify(row);
  const report = await validate(`${JSON.stringify(chatRow())}\n${line}\n`);
  expect(report.errors.length).toBeGreaterThan(0);
  const { line: at, code, param, message } = report.errors[0]!;
  if (at !== null) expect(message).toMatch(new RegExp(`^line ${at}`));
  return [at, code, param];
}

export const user = { role: 'user', content: 'Hi' };
export const assistant = { role: 'assistant', content: 'Hello' };
export const call = { id: 'c1', type: 'function', function: { name: 'f', arguments: '{}' } };
export const chat = (...messages: unknown[]) => ({ messages });
export const tool = { type: 'function', function: { name: 'f', parameters: {} } };
