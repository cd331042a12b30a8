/**
 * What a file may be, however it came: names, purposes, expiry, and the look at what purposes with a format contain.
 * Knows neither forms nor storage.
 */
import { type ApiError, badRequest, invalidType, invalidValue, outOfRange } from '../../errors.ts';
import { type Finding, JsonlCheck } from './jsonl-check.ts';
import { FILE_PURPOSES, type FilePurpose } from './repository.ts';

const FILENAME_BYTES_MAX = 255;
const BATCH_BYTES_MAX = 200 * 1024 * 1024;
const BATCH_EXPIRES_SECONDS = 30 * 24 * 3600;
const EXPIRES_AFTER_SECONDS = { min: 3600, max: 2_592_000 } as const;

/** Throws ApiError naming `param` when the name cannot be kept; `name` went through safeFilename before. */
export function checkFilename(name: string, param: string): void {
  if (name === '') throw badRequest('The file needs a name.', param, 'invalid_filename');
  if (Buffer.byteLength(name) <= FILENAME_BYTES_MAX) return;
  throw badRequest(`The file's name is longer than ${FILENAME_BYTES_MAX} bytes.`, param, 'invalid_filename');
}

/** The purpose, or ApiError for one that users may not upload for. */
export function readPurpose(purpose: string): FilePurpose {
  if ((FILE_PURPOSES as readonly string[]).includes(purpose)) return purpose as FilePurpose;
  const why = `expected one of ${FILE_PURPOSES.join(', ')}, but got '${purpose.slice(0, 80)}' instead.`;
  throw invalidValue('purpose', why);
}

/** `expires_after` in seconds: what was asked, or what the purpose gives by itself; null = never. */
export function expirySeconds(asked: number | null, purpose: FilePurpose): number | null {
  return asked ?? (purpose === 'batch' ? BATCH_EXPIRES_SECONDS : null);
}

/** `expires_after` as it came in a form or as JSON; every value may be missing or wrong. */
export function readExpiresAfter(anchor: unknown, seconds: unknown): number {
  if (anchor !== 'created_at') throw invalidValue('expires_after[anchor]', "expected 'created_at'.");
  const whole = typeof seconds === 'string' ? /^-?\d{1,15}$/.test(seconds) : Number.isSafeInteger(seconds);
  if (!whole) throw invalidType('expires_after[seconds]', 'an integer', typeNameOf(seconds));
  const value = Number(seconds);
  const { min, max } = EXPIRES_AFTER_SECONDS;
  if (value < min) throw outOfRange('expires_after[seconds]', value, { min }, 'integer');
  if (value > max) throw outOfRange('expires_after[seconds]', value, { max }, 'integer');
  return value;
}

const typeNameOf = (value: unknown) =>
  value === null
    ? 'null'
    : Array.isArray(value)
      ? 'an array'
      : `a${/^[aeiou]/.test(typeof value) ? 'n' : ''} ${typeof value}`;

/** SDKs call bytes without a name "file" or "upload"; what such a file is, its content alone can say. */
const isUnnamed = (filename: string) => !filename.includes('.');

/** A look at the bytes as they pass, for a file that may have to be JSON lines; null when its name says it cannot be. */
export function contentCheck(filename: string): JsonlCheck | null {
  return isUnnamed(filename) || /\.jsonl?$/i.test(filename) ? new JsonlCheck() : null;
}

/** Whether files of this purpose are looked into. */
export const isChecked = (purpose: string): purpose is 'fine-tune' | 'batch' =>
  purpose === 'fine-tune' || purpose === 'batch';

/** What can be said of a file before its bytes are there; ApiError naming `param`, or null. */
export function announcedProblem(
  purpose: FilePurpose,
  file: { filename: string; bytes: number },
  param = 'file',
): ApiError | null {
  if (!isChecked(purpose)) return null;
  const ending = purpose === 'batch' ? /\.jsonl$/i : /\.jsonl?$/i;
  if (!isUnnamed(file.filename) && !ending.test(file.filename)) {
    const api = purpose === 'batch' ? 'Batch' : 'Fine-Tuning';
    return badRequest(`Invalid file format for ${api} API. Must be .jsonl`, param, 'invalid_file_format');
  }
  if (purpose === 'batch' && file.bytes > BATCH_BYTES_MAX) {
    return badRequest(`A batch file may have ${BATCH_BYTES_MAX} bytes at most.`, param, 'file_too_large');
  }
  return null;
}

/** Throws ApiError naming `file` when a file whose bytes have all passed `check` is not what its purpose needs. */
export function checkContent(
  purpose: FilePurpose,
  file: { filename: string; bytes: number },
  check: JsonlCheck | null,
): void {
  const problem = announcedProblem(purpose, file);
  if (problem) throw problem;
  if (!isChecked(purpose) || !check) return;
  const finding: Finding | null = check.end(purpose === 'fine-tune');
  if (finding) throw badRequest(finding.message, 'file', finding.code);
}

/** Passes the chunks on while `check` looks at them. */
export async function* watched(
  body: AsyncIterable<Uint8Array>,
  check: JsonlCheck,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of body) {
    check.push(chunk);
    yield chunk;
  }
}

/**
 * The name as it may be shown and sent back: the last path segment, without control characters or those that turn the
 * direction of text. It never becomes part of a storage key.
 */
export function safeFilename(given: string): string {
  const last = given.toWellFormed().split(/[/\\]/).at(-1) ?? '';
  const name = last
    .replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufffd]/g, '')
    .trim();
  return name === '.' || name === '..' ? '' : name;
}
