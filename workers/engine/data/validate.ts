/**
 * Reads a training or validation file once: checks every row, tokenises it, and returns the dataset together with a
 * report of all faults (the first 100 and their number). Uses no device.
 */
import type { Tokenizer } from '../tokenizer/load.ts';
import { Dataset } from './dataset.ts';
import { type DataOptions, type DataReport, FileCheck } from './file-check.ts';
import { readRows } from './read.ts';

export type { DataOptions, DataReport } from './file-check.ts';

/**
 * Checks and tokenises a file in one pass.
 * Faults of the data are in the report, never thrown. Memory: the dataset's tokens plus one row.
 * @throws TemplateError when the template itself does not work (not the row's fault); errors of reading the file.
 */
export async function loadDataset(
  path: string,
  tokenizer: Tokenizer,
  options: DataOptions,
): Promise<{ report: DataReport; dataset: Dataset }> {
  const dataset = new Dataset(options.method === 'dpo' ? 2 : 1);
  const check = new FileCheck(tokenizer, options);
  const rows = readRows(path);
  let next = await rows.next();
  for (; !next.done; next = await rows.next()) {
    for (const { tokens, learn } of check.row(next.value) ?? []) dataset.add(tokens, learn);
  }
  return { report: check.report(next.value.blankLines), dataset };
}
