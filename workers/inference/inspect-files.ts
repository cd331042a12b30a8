/**
 * Reads data files row by row as a training would and says what they hold: counts with faults, or single rows with
 * their tokens. Memory: one row. Knows storage and tokenizers; uses no device.
 */
import type {
  FileInspection,
  InspectedFile,
  InspectedRow,
  InspectedToken,
  InspectRequest,
} from '../../src/inference/inspection.ts';
import { ObjectNotFound, type Storage } from '../../src/storage/storage.ts';
import type { Sequence } from '../engine/data/encode.ts';
import { FileCheck } from '../engine/data/file-check.ts';
import { type RawRow, rowsOf } from '../engine/data/read.ts';
import { StreamDecoder, type Tokenizer } from '../engine/tokenizer/load.ts';

/** Counts the bytes that pass. */
async function* counted(chunks: AsyncIterable<Uint8Array>, count: { bytes: number }) {
  for await (const chunk of chunks) {
    count.bytes += chunk.byteLength;
    yield chunk;
  }
}

function checkOf(file: InspectedFile, request: InspectRequest, tokenizer: Tokenizer): FileCheck {
  return new FileCheck(tokenizer, {
    maxLength: request.max_length,
    overlong: request.overlong,
    minExamples: file.min_examples,
    what: file.param === 'training_file' ? 'Training file' : 'Validation file',
    method: request.method,
    fileId: file.id,
  });
}

/** @returns null when nothing is stored under the file's key */
async function openFile(storage: Storage, file: InspectedFile): Promise<AsyncIterable<Uint8Array> | null> {
  try {
    return await storage.get(file.storage_key);
  } catch (error) {
    if (error instanceof ObjectNotFound) return null;
    throw error;
  }
}

/**
 * The counts and faults of one file, up to `deadline` (performance.now()).
 * @throws TemplateError when the model's chat template itself does not work; errors of the storage
 */
export async function inspectFile(
  storage: Storage,
  tokenizer: Tokenizer,
  file: InspectedFile,
  request: InspectRequest,
  deadline: number,
): Promise<FileInspection> {
  const check = checkOf(file, request, tokenizer);
  const read = { bytes: 0 };
  let rowBytes = 0;
  const source = await openFile(storage, file);
  let complete = source !== null;
  let blankLines = 0;
  if (source !== null) {
    const rows = rowsOf(counted(source, read));
    for (;;) {
      const next = await rows.next();
      if (next.done) {
        blankLines = next.value.blankLines;
        break;
      }
      check.row(next.value);
      if ('text' in next.value) rowBytes += Buffer.byteLength(next.value.text) + 1;
      if (performance.now() < deadline) continue;
      complete = false;
      await rows.return({ blankLines: 0, byteOrderMark: false, array: false });
      break;
    }
  }
  const report = check.report(blankLines, complete);
  if (source === null) {
    const message = `The content of file ${file.id} is missing or damaged.`;
    report.errors.push({ line: null, code: `invalid_${file.param}`, message, param: file.param });
    report.errorsTotal++;
  }
  const { format, rows, examples, tokens, truncated, dropped, warnings, errors } = report;
  return {
    ...{
      param: file.param,
      format,
      complete,
      bytes_read: complete ? read.bytes : rowBytes,
      rows,
      examples,
      tokens,
    },
    ...{ labelled_tokens: report.labelledTokens, longest_example: report.longest, truncated, dropped },
    ...{ warnings, errors, errors_total: report.errorsTotal },
  };
}

/**
 * The rows from `rows.line` on, with their tokens; fewer where the file ends or the time is up.
 * @throws as inspectFile
 */
export async function inspectRows(
  storage: Storage,
  tokenizer: Tokenizer,
  request: InspectRequest,
  deadline: number,
): Promise<InspectedRow[]> {
  const [file] = request.files;
  const wanted = request.rows;
  const source = file && wanted && (await openFile(storage, file));
  if (!source) return [];
  const found: InspectedRow[] = [];
  let room = wanted.max_tokens;
  for await (const raw of rowsOf(source)) {
    if (raw.line >= wanted.line) {
      const row = inspectRow(raw, file, request, tokenizer, room);
      room -= row.sequences.reduce((sum, { tokens }) => sum + tokens.length, 0);
      found.push(row);
    }
    if (found.length === wanted.count || performance.now() >= deadline) break;
  }
  return found;
}

function inspectRow(
  raw: RawRow,
  file: InspectedFile,
  request: InspectRequest,
  tokenizer: Tokenizer,
  room: number,
): InspectedRow {
  const check = checkOf({ ...file, min_examples: 0 }, request, tokenizer);
  const sequences = check.row(raw) ?? [];
  const { format, errors } = check.report(0);
  const names = sequences.length === 1 ? ['example'] : ['preferred_output', 'non_preferred_output'];
  let left = room;
  return {
    line: raw.line,
    format,
    sequences: sequences.map((sequence, k) => {
      const tokens = labelledTokens(sequence, tokenizer, left);
      left -= tokens.length;
      return {
        name: names[k] as 'example',
        truncated: sequence.truncated,
        tokens_total: sequence.tokens.length,
        tokens,
      };
    }),
    errors,
  };
}

function labelledTokens({ tokens, learn }: Sequence, tokenizer: Tokenizer, most: number): InspectedToken[] {
  const decoder = new StreamDecoder(tokenizer, { skipSpecial: false });
  return tokens
    .slice(0, Math.max(0, most))
    .map((id, i) => ({ id, text: decoder.push(id), learned: learn[i]! }));
}
