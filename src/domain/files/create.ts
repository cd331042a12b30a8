/**
 * An upload from the first byte to the row: bytes go to storage while they are hashed and looked at, the row comes last.
 * Of what is refused or breaks off nothing is left.
 */
import {
  ApiError,
  badRequest,
  duplicateParameter,
  invalidType,
  missingParameter,
  unknownParameter,
} from '../../errors.ts';
import { newId } from '../../ids.ts';
import type { Dependencies } from '../dependencies.ts';
import { requireFileRoom } from '../quotas/quotas.ts';
import type { JsonlCheck } from './jsonl-check.ts';
import { type FileRow, insertFile } from './repository.ts';
import {
  checkContent,
  checkFilename,
  contentCheck,
  expirySeconds,
  isChecked,
  readExpiresAfter,
  readPurpose,
  safeFilename,
  watched,
} from './rules.ts';

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

const FIELDS = ['purpose', 'expires_after[anchor]', 'expires_after[seconds]', 'expires_after'];

/**
 * Runs `receive`, which feeds the sink, then decides. Throws ApiError for what the caller did wrong and whatever
 * `receive` throws; in both cases the stored bytes are removed.
 */
export async function createFile(
  deps: Pick<Dependencies, 'config' | 'database' | 'storage'>,
  projectId: string,
  receive: (sink: UploadSink) => Promise<void>,
): Promise<FileRow> {
  const fields = new Map<string, string>();
  let spooling: Promise<Spooled> | null = null;
  let upload: ReturnType<typeof readUpload>;
  await requireFileRoom(deps.database.db, deps.config, projectId, 1);
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
    upload = readUpload(await (spooling as Promise<Spooled> | null), fields);
  } catch (error) {
    // A put that failed has left nothing; one that succeeded is taken back.
    const spooled = await (spooling as Promise<Spooled> | null)?.catch(() => null);
    if (spooled) await deps.storage.delete(spooled.storageKey);
    throw error;
  }
  try {
    return await deps.database.transaction(async (tx) => {
      await requireFileRoom(tx, deps.config, projectId, upload.bytes);
      return insertFile(tx, { projectId, ...upload });
    });
  } catch (error) {
    // Should the database not answer, the row may be there all the same: the bytes stay, and a sweep takes them if not.
    if (error instanceof ApiError) await deps.storage.delete(upload.storageKey);
    throw error;
  }
}

/** Where a file's bytes lie. */
export const fileKey = (projectId: string, id: string) => `projects/${projectId}/files/${id}`;

async function spool(
  { storage }: Pick<Dependencies, 'storage'>,
  projectId: string,
  filename: string,
  body: AsyncIterable<Uint8Array>,
  checked: boolean,
): Promise<Spooled> {
  const id = newId('file-');
  const storageKey = fileKey(projectId, id);
  const name = safeFilename(filename);
  const check = checked ? contentCheck(name) : null;
  const { bytes, sha256 } = await storage.put(storageKey, check ? watched(body, check) : body);
  return { id, filename: name, storageKey, bytes, sha256, check };
}

/** Only files of some purposes are looked into; the purpose may still be to come. */
const mayNeedCheck = (purpose: string | undefined) => purpose === undefined || isChecked(purpose);

function fieldProblem(fields: Map<string, string>, name: string): ApiError | null {
  if (fields.has(name)) return duplicateParameter(name);
  if (name === 'file')
    return badRequest("'file' must be a file: its part needs a filename.", 'file', 'invalid_type');
  return FIELDS.includes(name) ? null : unknownParameter(name.slice(0, 80));
}

function readUpload(spooled: Spooled | null, fields: Map<string, string>) {
  const given = fields.get('purpose');
  if (given === undefined) throw missingParameter('purpose');
  const purpose = readPurpose(given);
  const expiresAfterSeconds = expirySeconds(readExpiry(fields), purpose);
  if (!spooled) throw badRequest("'file' is a required property", 'file', 'missing_required_parameter');
  const { check, ...file } = spooled;
  checkFilename(file.filename, 'file');
  checkContent(purpose, file, check);
  return { ...file, purpose, expiresAfterSeconds };
}

/** `expires_after` as two parts with brackets in their names, as the SDKs send it, or as one part that is JSON. */
function readExpiry(fields: Map<string, string>): number | null {
  const whole = fields.get('expires_after');
  let [anchor, seconds]: unknown[] = [
    fields.get('expires_after[anchor]'),
    fields.get('expires_after[seconds]'),
  ];
  if (whole !== undefined) {
    if (anchor !== undefined || seconds !== undefined) throw duplicateParameter('expires_after');
    ({ anchor, seconds } = jsonObject(whole));
  } else if (anchor === undefined && seconds === undefined) return null;
  if (anchor === undefined) throw missingParameter('expires_after[anchor]');
  if (seconds === undefined) throw missingParameter('expires_after[seconds]');
  return readExpiresAfter(anchor, seconds);
}

function jsonObject(text: string): Record<string, unknown> {
  let value: unknown = null;
  try {
    value = JSON.parse(text);
  } catch {
    throw invalidType('expires_after', 'an object', 'a string');
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value))
    throw invalidType('expires_after', 'an object', Array.isArray(value) ? 'an array' : typeof value);
  const unknown = Object.keys(value).find((key) => key !== 'anchor' && key !== 'seconds');
  if (unknown !== undefined) throw unknownParameter(`expires_after.${unknown.slice(0, 80)}`);
  return value as Record<string, unknown>;
}
