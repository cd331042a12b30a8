/**
 * Checks and tokenises the rows of one data file as they come and counts what they hold. What becomes of the tokens is
 * the caller's business; a row's fault is noted with its line, never thrown. Memory: one row and the counters.
 */
import { createHash } from 'node:crypto';
import type { Tokenizer } from '../tokenizer/load.ts';
import { EncodeError, type EncodeOptions, type Sequence } from './encode.ts';
import {
  type DataMethod,
  detectFormat,
  type Example,
  type Format,
  formatName,
  methodOf,
  type Row,
  readExample,
  wireFormatName,
} from './formats.ts';
import { type DataIssue, excerpt, IssueList } from './issues.ts';
import { answersEqual } from './preference-rows.ts';
import type { RawRow } from './read.ts';
import { exampleSequences } from './sequences.ts';
import { JsonError, parseStrictJson } from './strict-json.ts';

export interface DataOptions extends EncodeOptions {
  /** Fewest examples that the file must have. Default 10 (OpenAI's rule); use 1 for validation files. */
  minExamples?: number;
  /** How messages call the file. Default 'Training file'. */
  what?: 'Training file' | 'Validation file';
  /** What learns from the rows. Default 'supervised'. */
  method?: DataMethod;
  /** The file's public id, for messages about it as a whole. */
  fileId?: string;
}

export interface DataReport {
  format: Format | null;
  /** Rows seen, good or bad. */
  rows: number;
  /** Examples that can be learned from. */
  examples: number;
  /** Positions of one epoch. */
  tokens: number;
  /** Targets of one epoch. */
  labelledTokens: number;
  /** Positions of the longest example. */
  longest: number;
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

export class FileCheck {
  readonly #tokenizer: Tokenizer;
  readonly #options: DataOptions;
  readonly #method: DataMethod;
  readonly #issues = new IssueList();
  readonly #seen = new Set<string>();
  readonly #counts = {
    ...{ rows: 0, examples: 0, tokens: 0, labelledTokens: 0, longest: 0 },
    ...{ truncated: 0, dropped: 0, duplicates: 0, rowsWithSpecials: 0 },
  };
  #format: Format | null = null;
  #mixedReported = false;
  /** The file is for another method: one fault says so, and its rows are not looked into. */
  #misfit = false;

  constructor(tokenizer: Tokenizer, options: DataOptions) {
    this.#tokenizer = tokenizer;
    this.#options = options;
    this.#method = options.method ?? 'supervised';
  }

  /** Checks one row; its sequences, or null when it holds a fault or is left out. */
  row(raw: RawRow): Sequence[] | null {
    this.#counts.rows++;
    if ('code' in raw) {
      this.#issues.add(raw.line, raw.code, '', raw.message);
      return null;
    }
    const value = this.#parse(raw.line, raw.text);
    const format = value === null ? null : this.#formatOf(raw.line, value);
    if (value === null || format === null) return null;
    const example = readExample(value, format, (code, path, message) =>
      this.#issues.add(raw.line, code, path, message),
    );
    if (example?.kind === 'preference' && answersEqual(example)) {
      const message = 'both outputs are the same: there is nothing to prefer';
      this.#issues.add(raw.line, 'identical_preference', 'non_preferred_output', message);
      return null;
    }
    const sequences = example && this.#encode(raw.line, example);
    if (example === null || sequences === null) return null;
    this.#count(sequences);
    this.#countDuplicate(raw.text);
    return sequences;
  }

  /** The report on the rows so far. @param whole false when the file was not read to its end */
  report(blankLines: number, whole = true): DataReport {
    const counts = this.#counts;
    const [what, least] = [this.#options.what ?? 'Training file', this.#options.minExamples ?? 10];
    if (whole && this.#issues.total === 0 && counts.examples < least) {
      const message = `${what} has ${counts.examples} example(s), but must have at least ${least} examples`;
      this.#fileIssue(counts.rows === 0 ? 'empty_file' : 'invalid_n_examples', message);
    }
    const { rows, examples, tokens, labelledTokens, longest, truncated, dropped } = counts;
    return {
      ...{ format: this.#format, rows, examples, tokens, labelledTokens, longest, truncated, dropped },
      warnings: this.#warnings(blankLines),
      errors: this.#issues.first,
      errorsTotal: this.#issues.total,
    };
  }

  #parse(line: number, text: string): Row | null {
    try {
      const value = parseStrictJson(text);
      if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Row;
      const message = `every line must be a JSON object; this one starts with: ${excerpt(text)}`;
      this.#issues.add(line, 'invalid_jsonl', '', message);
    } catch (error) {
      if (!(error instanceof JsonError)) throw error;
      const isSyntax = error.code === 'invalid_jsonl';
      const start = isSyntax ? `; the line starts with: ${excerpt(text)}` : '';
      this.#issues.add(line, error.code, isSyntax ? '' : error.path, error.message + start);
    }
    return null;
  }

  /** The row's format when it is the file's; the first row of another format is reported, the others are not. */
  #formatOf(line: number, row: Row): Format | null {
    const format = detectFormat(row);
    if (format === null) {
      if (this.#method === 'dpo') {
        this.#issues.add(line, 'invalid_file_format', 'input', `Example ${line} is missing key 'input'`);
      } else {
        const message = 'Unexpected file format, expected either prompt/completion pairs or chat messages';
        this.#issues.add(line, 'invalid_training_file', '', message);
      }
      return null;
    }
    this.#format ??= format;
    if (format !== this.#format) {
      if (this.#mixedReported) return null;
      this.#mixedReported = true;
      const names = `${formatName(this.#format)} before, ${formatName(format)} here`;
      this.#issues.add(line, 'mixed_formats', '', `all rows must have one format: ${names}`);
      return null;
    }
    if (methodOf(format) === this.#method) return format;
    if (!this.#misfit) this.#fileIssue(`invalid_${this.#param}`, this.#misfitMessage(format));
    this.#misfit = true;
    return null;
  }

  #misfitMessage(format: Format): string {
    const file = `Input file${this.#options.fileId ? ` ${this.#options.fileId}` : ''}`;
    const job = `the specified fine-tuning job is not using '${methodOf(format)}' as the training method`;
    return `${file} is in the ${wireFormatName(format)} format, but ${job} (provided method=${this.#method}).`;
  }

  get #param(): 'training_file' | 'validation_file' {
    return this.#options.what === 'Validation file' ? 'validation_file' : 'training_file';
  }

  /** A fault of the file as a whole. */
  #fileIssue(code: string, message: string): void {
    this.#issues.add(null, code, '', message);
    const last = this.#issues.first.at(-1)!;
    if (last.line === null) last.param = this.#param;
  }

  #encode(line: number, example: Example): Sequence[] | null {
    try {
      const sequences = exampleSequences(example, this.#tokenizer, this.#options);
      if (sequences === null) this.#counts.dropped++;
      return sequences;
    } catch (error) {
      if (!(error instanceof EncodeError)) throw error;
      this.#issues.add(line, error.code, error.path, error.message);
      return null;
    }
  }

  #count(sequences: readonly Sequence[]): void {
    const counts = this.#counts;
    let positions = 0;
    for (const { tokens, learn } of sequences) {
      positions += tokens.length - 1;
      for (let i = 1; i < learn.length; i++) if (learn[i]) counts.labelledTokens++;
    }
    counts.examples++;
    counts.tokens += positions;
    counts.longest = Math.max(counts.longest, positions);
    if (sequences.some(({ truncated }) => truncated)) counts.truncated++;
    if (sequences.some(({ specialsInText }) => specialsInText > 0)) counts.rowsWithSpecials++;
  }

  #countDuplicate(text: string): void {
    const digest = createHash('sha1').update(text).digest('base64').slice(0, 12);
    if (this.#seen.has(digest)) this.#counts.duplicates++;
    else if (this.#seen.size < duplicateWindow) this.#seen.add(digest);
  }

  #warnings(blankLines: number): { code: string; message: string }[] {
    const { examples, duplicates, truncated, dropped, rowsWithSpecials } = this.#counts;
    const share = Math.round((100 * duplicates) / Math.max(1, examples - 1));
    const repeated = `${share} % (${duplicates} rows repeat an earlier one)`;
    const all: [number, string, string][] = [
      [blankLines, 'blank_lines', 'blank lines were skipped'],
      [duplicates, 'duplicate_examples', `duplicate_examples: ${repeated}`],
      [truncated, 'truncated_examples', 'examples were cut off at the end to fit the maximum length'],
      [dropped, 'dropped_examples', 'examples were left out because they are longer than the maximum length'],
      [
        rowsWithSpecials,
        'special_tokens_in_text',
        'examples contain special-token strings; they are ordinary text',
      ],
    ];
    return all
      .filter(([count]) => count > 0)
      .map(([count, code, text]) => ({
        code,
        message: code === 'duplicate_examples' ? text : `${count} ${text}`,
      }));
  }
}
