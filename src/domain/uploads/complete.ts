/**
 * Puts an Upload's parts together: they stream from storage to storage in the order asked for while they are hashed
 * and looked at like any uploaded file. The file's row and the Upload's end are one transaction.
 */
import { createHash, type Hash } from 'node:crypto';
import { badRequest, invalidValue, noSuchUpload } from '../../errors.ts';
import { newId } from '../../ids.ts';
import { readSegments, type Segment } from '../../storage/segments.ts';
import { ObjectNotFound, type StoredObject } from '../../storage/storage.ts';
import { fileKey } from '../files/create.ts';
import { type FilePurpose, findFile, insertFile } from '../files/repository.ts';
import { checkContent, contentCheck, isChecked, watched } from '../files/rules.ts';
import { requireFileRoom } from '../quotas/quotas.ts';
import { endUpload, findParts, lockUpload, type PartRow, type UploadRow } from './repository.ts';
import { type Deps, getUpload, mustBePending, removeParts, type UploadView } from './uploads.ts';

export interface CompleteRequest {
  part_ids: string[];
  md5?: string | null;
}

/**
 * Completes the Upload. Throws ApiError when parts are unknown, their bytes are not the announced number, `md5` is
 * another, or the content is not what the purpose needs: the Upload stays pending then and can be completed otherwise.
 * The same call again after it succeeded (its answer was lost) answers as before.
 */
export async function completeUpload(
  deps: Deps,
  projectId: string,
  id: string,
  request: CompleteRequest,
): Promise<UploadView> {
  const upload = await getUpload(deps, projectId, id);
  const before = await alreadyCompleted(deps, upload, request);
  if (before) return before;
  mustBePending(upload);
  let file: Assembled | null = null;
  let committing = false;
  try {
    const parts = await chosenParts(deps, upload, request.part_ids);
    const made = await putTogether(deps, upload, parts, request.md5 ?? null);
    file = made;
    const view = await deps.database.transaction(async (tx) => {
      const now = await lockUpload(tx, projectId, id);
      if (!now) throw noSuchUpload(id);
      mustBePending(now.status === 'expired' ? { ...now, status: 'pending' } : now); // it was in time when it began
      await requireFileRoom(tx, deps.config, projectId, made.bytes);
      committing = true;
      const { md5, ...fields } = made;
      const row = await insertFile(tx, { projectId, ...fields });
      const end = { status: 'completed', fileId: row.id, partIds: request.part_ids, md5 } as const;
      return { upload: await endUpload(tx, projectId, id, end), file: row };
    });
    await removeParts(deps, { projectId, uploadId: id });
    return view;
  } catch (error) {
    if (file && !committing) await deps.storage.delete(file.storageKey);
    // The same call at the same time may have won at any moment; its end also takes the parts away.
    const now = await getUpload(deps, projectId, id);
    const twin = await alreadyCompleted(deps, now, request);
    if (twin) return twin;
    if (error instanceof ObjectNotFound) mustBePending(now); // a part is gone: the Upload has ended
    throw error;
  }
}

/**
 * The answer to a completion that has happened; null when this one asks for other parts. Throws ApiError 400 for another
 * checksum.
 */
async function alreadyCompleted(
  { database }: Deps,
  upload: UploadRow,
  request: CompleteRequest,
): Promise<UploadView | null> {
  if (upload.status !== 'completed' || upload.fileId === null) return null;
  if (upload.partIds?.join() !== request.part_ids.join()) return null;
  if (upload.md5 !== null) checkMd5(request.md5 ?? null, upload.md5);
  return { upload, file: await findFile(database.db, upload.projectId, upload.fileId) };
}

/** The parts in the order asked for; together they must have the announced bytes. */
async function chosenParts({ database }: Deps, upload: UploadRow, ids: string[]): Promise<PartRow[]> {
  const known = await findParts(database.db, upload.projectId, upload.id, ids);
  const seen = new Set<string>();
  const parts = ids.map((id, i) => {
    const part = known.get(id);
    if (!part) throw invalidValue(`part_ids[${i}]`, `the Upload has no part '${id.slice(0, 80)}'.`);
    if (seen.has(id)) throw invalidValue(`part_ids[${i}]`, `part '${id}' is named twice.`);
    seen.add(id);
    return part;
  });
  const bytes = parts.reduce((sum, part) => sum + part.bytes, 0);
  if (bytes !== upload.bytes) {
    const message = `The parts have ${bytes} bytes together, but the Upload was created for ${upload.bytes} bytes.`;
    throw badRequest(message, 'part_ids', 'upload_size_mismatch');
  }
  return parts;
}

interface Assembled extends StoredObject {
  id: string;
  filename: string;
  purpose: FilePurpose;
  storageKey: string;
  expiresAfterSeconds: number | null;
  /** Hex. */
  md5: string;
}

/** Throws ApiError for what the purpose or the checksum refuses, ObjectNotFound when a part is gone. */
async function putTogether(
  { storage }: Deps,
  upload: UploadRow,
  parts: readonly PartRow[],
  md5: string | null,
): Promise<Assembled> {
  const id = newId('file-');
  const storageKey = fileKey(upload.projectId, id);
  const { filename } = upload;
  const purpose = upload.purpose as FilePurpose;
  const check = isChecked(purpose) ? contentCheck(filename) : null;
  const hash = createHash('md5');
  const segments: Segment[] = parts.map((part) => ({ key: part.storageKey, bytes: part.bytes }));
  const body = hashed(readSegments(storage, segments), hash);
  const stored = await storage.put(storageKey, check ? watched(body, check) : body);
  const got = hash.digest('hex');
  try {
    checkMd5(md5, got);
    checkContent(purpose, { filename, bytes: stored.bytes }, check);
  } catch (error) {
    await storage.delete(storageKey);
    throw error;
  }
  return {
    id,
    filename,
    purpose,
    storageKey,
    ...stored,
    expiresAfterSeconds: upload.fileExpiresAfterSeconds,
    md5: got,
  };
}

function checkMd5(wanted: string | null, got: string): void {
  if (wanted === null || wanted.toLowerCase() === got) return;
  throw badRequest(`The bytes have the md5 ${got}, not ${wanted}.`, 'md5', 'checksum_mismatch');
}

async function* hashed(body: AsyncIterable<Uint8Array>, hash: Hash): AsyncGenerator<Uint8Array> {
  for await (const chunk of body) {
    hash.update(chunk);
    yield chunk;
  }
}
