/**
 * An upload from the first byte to the row: bytes go to storage while they are hashed and looked at, the row comes last.
 * Whatever fails on the way, nothing is left.
 */
import {
  type ApiError,
  badRequest,
  duplicateParameter,
  invalidType,
  invalidValue,
  missingParameter,
  outOfRange,
  unknownParameter,
} from '../../errors.ts';
import { newId } from '../../ids.ts';
import type { Dependencies } from '../dependencies.ts';
import { type Finding, JsonlCheck } from './jsonl-check.ts';
import { FILE_PURPOSES, type FilePurpose, type FileRow, insertFile } from './repository.ts';

const FILENAME_BYTES_MAX = 255;
const BATCH_BYTES_MAX = 200 * 1024 * 1024;
const BATCH_EXPIRES_SECONDS = 30 * 24 * 3600;

/** What the caller hands over as the parts of the form arrive, in any order. */
export interface UploadSink {
  field(name: string, value: string): void;
  /** Resolves when the file's bytes are in storage. */
  file(filename: string, body: AsyncIterable<Uint8Array>): Promise<void>;
}

interface Spooled {
  id: string;
  filename: string;
  storageKey: string;
  bytes: number;
  sha256: string;
  check: JsonlCheck | null;
}

/**
 * Runs `receive`, which feeds the sink, then decides. Throws ApiError for what the caller did wrong and whatever
 * `receive` throws; in both cases the stored bytes are removed.
 */
export async function createFile(
  deps: Pick<Dependencies, 'database' | 'storage'>,
  projectId: string,
  receive: (sink: UploadSink) => Promise<void>,
): Promise<FileRow> {
  const fields = new Map<string, string>();
  let spooling: Promise<Spooled> | null = null;
  let problem: ApiError | null = null; // told at the end, when the sender has finished and listens
  try {
    await receive({
      field: (name, value) => {
        problem ??= fieldProblem(fields, name);
        fields.set(name, value);
      },
      file: async (filename, body) => {
        if (spooling) {
          problem ??= duplicateParameter('file');
          for await (const _ of body); // read to its end, so that the form can end
          return;
        }
        spooling = spool(deps, projectId, filename, body, mayNeedCheck(fields.get('purpose')));
        await spooling;
      },
    });
    if (problem) throw problem;
    const upload = readUpload(await (spooling as Promise<Spooled> | null), fields);
    return await insertFile(deps.database.db, { projectId, ...upload });
  } catch (error) {
    // A put that failed has left nothing; one that succeeded is taken back.
    const spooled = await (spooling as Promise<Spooled> | null)?.catch(() => null);
    if (spooled) await deps.storage.delete(spooled.storageKey);
    throw error;
  }
}

async function spool(
  { storage }: Pick<Dependencies, 'storage'>,
  projectId: string,
  filename: string,
  body: AsyncIterable<Uint8Array>,
  checked: boolean,
): Promise<Spooled> {
  const id = newId('file-');
  const storageKey = `projects/${projectId}/files/${id}`;
  const name = safeFilename(filename);
  const check = checked && /\.jsonl?$/i.test(name) ? new JsonlCheck() : null;
  const { bytes, sha256 } = await storage.put(storageKey, check ? watched(body, check) : body);
  return { id, filename: name, storageKey, bytes, sha256, check };
}

async function* watched(body: AsyncIterable<Uint8Array>, check: JsonlCheck): AsyncGenerator<Uint8Array> {
  for await (const chunk of body) {
    check.push(chunk);
    yield chunk;
  }
}

/** Only training and batch files are looked into; the purpose may still be to come. */
const mayNeedCheck = (purpose: string | undefined) =>
  purpose === undefined || purpose === 'fine-tune' || purpose === 'batch';

function fieldProblem(fields: Map<string, string>, name: string): ApiError | null {
  if (fields.has(name)) return duplicateParameter(name);
  const known = ['purpose', 'expires_after[anchor]', 'expires_after[seconds]'];
  if (name === 'file')
    return badRequest("'file' must be a file: its part needs a filename.", 'file', 'invalid_type');
  return known.includes(name) ? null : unknownParameter(name.slice(0, 80));
}

function readUpload(spooled: Spooled | null, fields: Map<string, string>) {
  const purpose = readPurpose(fields.get('purpose'));
  const expiresAfterSeconds = readExpiry(fields) ?? (purpose === 'batch' ? BATCH_EXPIRES_SECONDS : null);
  if (!spooled) throw badRequest("'file' is a required property", 'file', 'missing_required_parameter');
  const { check, ...file } = spooled;
  if (file.filename === '') throw badRequest('The file needs a name.', 'file', 'invalid_filename');
  if (Buffer.byteLength(file.filename) > FILENAME_BYTES_MAX) {
    throw badRequest(
      `The file's name is longer than ${FILENAME_BYTES_MAX} bytes.`,
      'file',
      'invalid_filename',
    );
  }
  if (purpose === 'fine-tune' || purpose === 'batch') {
    const finding = contentProblem(purpose, file, check);
    if (finding) throw badRequest(finding.message, 'file', finding.code);
  }
  return { ...file, purpose, expiresAfterSeconds };
}

function readPurpose(purpose: string | undefined): FilePurpose {
  if (purpose === undefined) throw missingParameter('purpose');
  if ((FILE_PURPOSES as readonly string[]).includes(purpose)) return purpose as FilePurpose;
  const why = `expected one of ${FILE_PURPOSES.join(', ')}, but got '${purpose.slice(0, 80)}' instead.`;
  throw invalidValue('purpose', why);
}

function readExpiry(fields: Map<string, string>): number | null {
  const anchor = fields.get('expires_after[anchor]');
  const seconds = fields.get('expires_after[seconds]');
  if (anchor === undefined && seconds === undefined) return null;
  if (anchor === undefined) throw missingParameter('expires_after[anchor]');
  if (seconds === undefined) throw missingParameter('expires_after[seconds]');
  if (anchor !== 'created_at') throw invalidValue('expires_after[anchor]', "expected 'created_at'.");
  if (!/^-?\d{1,15}$/.test(seconds)) throw invalidType('expires_after[seconds]', 'an integer', 'a string');
  const value = Number(seconds);
  if (value < 3600) throw outOfRange('expires_after[seconds]', value, { min: 3600 }, 'integer');
  if (value > 2_592_000) throw outOfRange('expires_after[seconds]', value, { max: 2_592_000 }, 'integer');
  return value;
}

function contentProblem(
  purpose: 'fine-tune' | 'batch',
  file: { filename: string; bytes: number },
  check: JsonlCheck | null,
): Finding | null {
  const ending = purpose === 'batch' ? /\.jsonl$/i : /\.jsonl?$/i;
  if (!check || !ending.test(file.filename)) {
    const api = purpose === 'batch' ? 'Batch' : 'Fine-Tuning';
    return { code: 'invalid_file_format', message: `Invalid file format for ${api} API. Must be .jsonl` };
  }
  if (purpose === 'batch' && file.bytes > BATCH_BYTES_MAX) {
    return { code: 'file_too_large', message: `A batch file may have ${BATCH_BYTES_MAX} bytes at most.` };
  }
  return check.end(purpose === 'fine-tune');
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
