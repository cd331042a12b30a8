/**
 * Uploads: a file announced first, sent in parts of any order and at once, and put together at the end. Parts lie in
 * storage as objects of their own; the file is written by streaming them through, never held.
 */
import {
  type ApiError,
  badRequest,
  duplicateParameter,
  invalidValue,
  missingParameter,
  noSuchUpload,
  outOfRange,
  unknownParameter,
} from '../../errors.ts';
import { newId } from '../../ids.ts';
import type { Dependencies } from '../dependencies.ts';
import type { UploadSink } from '../files/create.ts';
import type { FileRow } from '../files/repository.ts';
import { announcedProblem, checkFilename, expirySeconds, readPurpose, safeFilename } from '../files/rules.ts';
import { requireFileRoom } from '../quotas/quotas.ts';
import { lockProject } from '../quotas/repository.ts';
import {
  deletePart,
  endedParts,
  endUpload,
  findUpload,
  insertPart,
  insertUpload,
  lockUpload,
  type PartRow,
  pendingBytes,
  sumParts,
  type UploadRow,
} from './repository.ts';

export type Deps = Pick<Dependencies, 'config' | 'database' | 'storage' | 'log'>;

/** OpenAI's limits. */
export const PART_BYTES_MAX = 64 * 1024 * 1024;
const LIFE_SECONDS = 3600;
/** A part sent twice (its answer was lost) takes room until the end; this much is allowed for it. */
const REPEATED_FACTOR = 2;
const PARTS_MAX = 10_000;
/** What a project may have announced at a time, in Uploads of the largest size. */
const PENDING_FACTOR = 8;

export interface UploadRequest {
  filename: string;
  purpose: string;
  bytes: number;
  mime_type: string;
  expires_after?: { anchor: 'created_at'; seconds: number } | null;
}

/** An Upload and, once it is completed, its file. */
export interface UploadView {
  upload: UploadRow;
  file: FileRow | null;
}

/**
 * Announces a file. An Upload that already has this `id` was made by an earlier try of the same request, and is the
 * answer. Throws ApiError for what its purpose would refuse at the end anyway.
 */
export async function createUpload(
  { config, database }: Deps,
  projectId: string,
  request: UploadRequest,
  id: string = newId('upload_'),
): Promise<UploadRow> {
  const purpose = readPurpose(request.purpose);
  const filename = safeFilename(request.filename);
  checkFilename(filename, 'filename');
  const max = config.maxUploadBytes;
  if (request.bytes > max) throw outOfRange('bytes', request.bytes, { max }, 'integer');
  const problem = announcedProblem(purpose, { filename, bytes: request.bytes }, 'filename');
  if (problem) throw problem;
  return database.transaction(async (tx) => {
    const made = await findUpload(tx, projectId, id);
    if (made) return made;
    await requireFileRoom(tx, config, projectId, request.bytes);
    await lockProject(tx, projectId);
    if ((await pendingBytes(tx, projectId)) + request.bytes > PENDING_FACTOR * max) {
      const message = `Pending Uploads of a project may announce ${PENDING_FACTOR * max} bytes together. Complete or cancel some first.`;
      throw badRequest(message, 'bytes', 'too_many_pending_uploads');
    }
    const row = {
      ...{ id, projectId, filename, purpose, bytes: request.bytes, mimeType: request.mime_type },
      fileExpiresAfterSeconds: expirySeconds(request.expires_after?.seconds ?? null, purpose),
    };
    return insertUpload(tx, row, LIFE_SECONDS);
  });
}

/** The Upload, or ApiError 404. */
export async function getUpload({ database }: Deps, projectId: string, id: string): Promise<UploadRow> {
  const upload = await findUpload(database.db, projectId, id);
  if (!upload) throw noSuchUpload(id);
  return upload;
}

/**
 * Stores a part while `receive` feeds it in. Throws ApiError when the Upload has ended, also meanwhile, or when its
 * parts become more than it announced; what was stored is removed then.
 */
export async function addPart(
  deps: Deps,
  projectId: string,
  uploadId: string,
  receive: (sink: UploadSink) => Promise<void>,
): Promise<PartRow> {
  const { database, storage } = deps;
  mustBePending(await getUpload(deps, projectId, uploadId));
  const id = newId('part_');
  const storageKey = `projects/${projectId}/uploads/${uploadId}/${id}`;
  let putting: ReturnType<typeof storage.put> | null = null;
  let inserting = false;
  let problem: ApiError | null = null; // told at the end, when the sender has finished and listens
  try {
    await receive({
      field: (name) => {
        problem ??=
          name === 'data'
            ? badRequest("'data' must be a file: its part needs a filename.", 'data', 'invalid_type')
            : unknownParameter(name.slice(0, 80));
      },
      file: async (_filename, body) => {
        if (putting) {
          problem ??= duplicateParameter('data');
          for await (const _ of body); // read to its end, so that the form can end
          return;
        }
        putting = storage.put(storageKey, body);
        await putting;
      },
    });
    if (problem) throw problem;
    const stored = await (putting as ReturnType<typeof storage.put> | null);
    if (!stored) throw missingParameter('data');
    if (stored.bytes === 0) throw invalidValue('data', 'the part is empty.');
    return await database.transaction(async (tx) => {
      const upload = await lockUpload(tx, projectId, uploadId);
      if (!upload) throw noSuchUpload(uploadId);
      mustBePending(upload);
      checkRoom(upload, stored.bytes, await sumParts(tx, projectId, uploadId));
      inserting = true;
      return insertPart(tx, { id, projectId, uploadId, ...stored, storageKey });
    });
  } catch (error) {
    await (putting as ReturnType<typeof storage.put> | null)?.catch(() => null);
    // A commit whose answer was lost may have made the part; then its bytes stay, and a sweep takes them if not.
    if (!inserting) await storage.delete(storageKey);
    throw error;
  }
}

function checkRoom(upload: UploadRow, bytes: number, present: { count: number; bytes: number }): void {
  if (bytes > upload.bytes) {
    throw invalidValue('data', `the part has ${bytes} bytes, the whole Upload was to have ${upload.bytes}.`);
  }
  if (present.count >= PARTS_MAX) throw invalidValue('data', `an Upload takes ${PARTS_MAX} parts at most.`);
  const room = REPEATED_FACTOR * upload.bytes + PART_BYTES_MAX;
  if (present.bytes + bytes > room) {
    throw invalidValue(
      'data',
      `the parts have more bytes by far than the ${upload.bytes} that were announced.`,
    );
  }
}

/** Ends the Upload without a file. A repeated cancel answers as the first one did. */
export async function cancelUpload(deps: Deps, projectId: string, id: string): Promise<UploadRow> {
  const upload = await deps.database.transaction(async (tx) => {
    const found = await lockUpload(tx, projectId, id);
    if (!found) throw noSuchUpload(id);
    if (found.status === 'cancelled') return found;
    mustBePending(found);
    return endUpload(tx, projectId, id, { status: 'cancelled' });
  });
  await removeParts(deps, { projectId, uploadId: id });
  return upload;
}

/** Throws ApiError 400, which SDKs do not repeat, for an Upload that has ended. */
export function mustBePending(upload: UploadRow): void {
  if (upload.status === 'pending') return;
  const why = upload.status === 'expired' ? 'has expired' : `is already ${upload.status}`;
  throw badRequest(`Upload ${upload.id} ${why}.`, 'upload_id', `upload_${upload.status}`);
}

/**
 * Removes the parts of an Upload that has ended, bytes before rows, so that a crash between them repeats and loses
 * nothing. What fails is left to a sweep.
 */
export async function removeParts(
  { database, storage, log }: Pick<Deps, 'database' | 'storage' | 'log'>,
  scope: { projectId: string; uploadId: string },
): Promise<void> {
  try {
    for (const part of await endedParts(database.db, scope, PARTS_MAX)) {
      await storage.delete(part.storageKey);
      await deletePart(database.db, part.projectId, part.id);
    }
  } catch (error) {
    log.warn({ err: error, upload: scope.uploadId }, 'parts of an ended upload are left to the next sweep');
  }
}
