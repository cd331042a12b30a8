/**
 * Reads a training or validation file once: checks every row, tokenises it, and returns the dataset together with a
 * report of all faults (the first 100 and their number). Uses no device.
 */
import { createHash } from 'node:crypto';
import type { Tokenizer } from '../tokenizer/load.ts';
import { Dataset } from './dataset.ts';
import { EncodeError, type EncodeOptions, encodeSequence, type Sequence } from './encode.ts';
import { detectFormat, type Example, type Format, formatName, type Row, readExample } from './formats.ts';
import { type DataIssue, excerpt, IssueList } from './issues.ts';
import { type RawRow, readRows } from './read.ts';
import { JsonError, parseStrictJson } from './strict-json.ts';

export interface DataOptions extends EncodeOptions {
  /** Fewest examples that the file must have. Default 10 (OpenAI's rule); use 1 for validation files. */
  minExamples?: number;
  /** How messages call the file. Default 'Training file'. */
  what?: 'Training file' | 'Validation file';
}

export interface DataReport {
  format: Format | null;
  /** Examples that can be learned from. */
  examples: number;
  /** Positions of one epoch. */
  tokens: number;
  /** Targets of one epoch. */
  labelledTokens: number;
  /** Examples whose end was cut off / that were left out because they are over-long. */
  truncated: number;
  dropped: number;
  warnings: { code: string; message: string }[];
  errors: DataIssue[];
  /** All faults, listed or not. */
  errorsTotal: number;
}

/** Examples remembered for the duplicate count; beyond that many the count stops, so memory stays bounded. */
const duplicateWindow = 200_000;

class FileReader {
  readonly dataset = new Dataset();
  readonly issues = new IssueList();
  format: Format | null = null;
  rows = 0;
  truncated = 0;
  dropped = 0;
  duplicates = 0;
  rowsWithSpecials = 0;
  private mixedReported = false;
  private readonly seen = new Set<string>();
  private readonly tokenizer: Tokenizer;
  private readonly options: DataOptions;

  constructor(tokenizer: Tokenizer, options: DataOptions) {
    this.tokenizer = tokenizer;
    this.options = options;
  }

  row(raw: RawRow): void {
    this.rows++;
    if ('code' in raw) {
      this.issues.add(raw.line, raw.code, '', raw.message);
      return;
    }
    const value = this.parse(raw.line, raw.text);
    const format = value === null ? null : this.formatOf(raw.line, value);
    if (value === null || format === null) return;
    const example = readExample(value, format, (code, path, message) =>
      this.issues.add(raw.line, code, path, message),
    );
    if (example === null) return;
    const sequence = this.encode(raw.line, example);
    if (sequence === null) return;
    this.dataset.add(sequence.tokens, sequence.learn);
    if (sequence.truncated) this.truncated++;
    if (sequence.specialsInText > 0) this.rowsWithSpecials++;
    this.countDuplicate(raw.text);
  }

  private parse(line: number, text: string): Row | null {
    try {
      const value = parseStrictJson(text);
      if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Row;
      this.issues.add(
        line,
        'invalid_jsonl',
        '',
        `every line must be a JSON object; this one starts with: ${excerpt(text)}`,
      );
    } catch (error) {
      if (!(error instanceof JsonError)) throw error;
      const start = error.code === 'invalid_jsonl' ? `; the line starts with: ${excerpt(text)}` : '';
      this.issues.add(
        line,
        error.code,
        error.code === 'invalid_jsonl' ? '' : error.path,
        error.message + start,
      );
    }
    return null;
  }

  /** The row's format when it is the file's; the first row of another format is reported, the others are not. */
  private formatOf(line: number, row: Row): Format | null {
    const format = detectFormat(row);
    if (format === null) {
      this.issues.add(line, 'invalid_training_file', '', unexpectedFormat(row));
      return null;
    }
    this.format ??= format;
    if (format === this.format) return format;
    if (!this.mixedReported) {
      this.mixedReported = true;
      const names = `${formatName(this.format)} before, ${formatName(format)} here`;
      this.issues.add(line, 'mixed_formats', '', `all rows must have one format: ${names}`);
    }
    return null;
  }

  private encode(line: number, example: Example): Sequence | null {
    try {
      const sequence = encodeSequence(example, this.tokenizer, this.options);
      if (sequence === null) this.dropped++;
      return sequence;
    } catch (error) {
      if (!(error instanceof EncodeError)) throw error;
      this.issues.add(line, error.code, error.path, error.message);
      return null;
    }
  }

  private countDuplicate(text: string): void {
    const digest = createHash('sha1').update(text).digest('base64').slice(0, 12);
    if (this.seen.has(digest)) this.duplicates++;
    else if (this.seen.size < duplicateWindow) this.seen.add(digest);
  }
}

function unexpectedFormat(row: Row): string {
  if ('preferred_output' in row || 'non_preferred_output' in row) {
    return "this is a preference row, but the fine-tuning method is 'supervised'";
  }
  return 'Unexpected file format, expected either prompt/completion pairs or chat messages';
}

function warningsOf(reader: FileReader, blankLines: number): { code: string; message: string }[] {
  const { dataset, duplicates, truncated, dropped, rowsWithSpecials } = reader;
  const warnings: { code: string; message: string }[] = [];
  const add = (count: number, code: string, message: string) => {
    if (count > 0) warnings.push({ code, message });
  };
  const share = Math.round((100 * duplicates) / Math.max(1, dataset.length - 1));
  add(blankLines, 'blank_lines', `${blankLines} blank lines were skipped`);
  add(
    duplicates,
    'duplicate_examples',
    `duplicate_examples: ${share} % (${duplicates} rows repeat an earlier one)`,
  );
  add(
    truncated,
    'truncated_examples',
    `${truncated} examples were cut off at the end to fit the maximum length`,
  );
  add(
    dropped,
    'dropped_examples',
    `${dropped} examples were left out because they are longer than the maximum length`,
  );
  add(
    rowsWithSpecials,
    'special_tokens_in_text',
    `${rowsWithSpecials} examples contain special-token strings; they are ordinary text`,
  );
  return warnings;
}

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
  const reader = new FileReader(tokenizer, options);
  const rows = readRows(path);
  let next = await rows.next();
  for (; !next.done; next = await rows.next()) reader.row(next.value);
  const { dataset, issues } = reader;
  const [what, least] = [options.what ?? 'Training file', options.minExamples ?? 10];
  const param = what === 'Training file' ? 'training_file' : 'validation_file';
  if (issues.total === 0 && dataset.length < least) {
    const message = `${what} has ${dataset.length} example(s), but must have at least ${least} examples`;
    issues.add(null, reader.rows === 0 ? 'empty_file' : 'invalid_n_examples', '', message);
    issues.first[issues.first.length - 1]!.param = param;
  }
  const report = {
    format: reader.format,
    examples: dataset.length,
    tokens: dataset.tokens,
    labelledTokens: dataset.labelledTokens,
    truncated: reader.truncated,
    dropped: reader.dropped,
    warnings: warningsOf(reader, next.value.blankLines),
    errors: issues.first,
    errorsTotal: issues.total,
  };
  return { report, dataset };
}

/** The report alone. */
export async function validateFile(
  path: string,
  tokenizer: Tokenizer,
  options: DataOptions,
): Promise<DataReport> {
  return (await loadDataset(path, tokenizer, options)).report;
}
