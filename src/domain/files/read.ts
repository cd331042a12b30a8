/**
 * Looks files up, opens their bytes and deletes them. Unknown, foreign, expired and deleted ids are one and the same.
 */
import { badRequest, invalidValue, noSuchFile } from '../../errors.ts';
import type { ByteRange } from '../../storage/storage.ts';
import type { Dependencies } from '../dependencies.ts';
import { asBase64, base64Length } from './base64.ts';
import {
  type FileQuery,
  type FileRow,
  fileExisted,
  findFile,
  isFileInUse,
  listFiles,
  markFileDeleted,
} from './repository.ts';

type Deps = Pick<Dependencies, 'database' | 'storage'>;

const NOT_DOWNLOADABLE = new Set(['assistants', 'user_data']);

/** The file, or ApiError 404. */
export async function getFile(
  { database }: Pick<Deps, 'database'>,
  projectId: string,
  id: string,
): Promise<FileRow> {
  const file = await findFile(database.db, projectId, id);
  if (!file) throw noSuchFile(id);
  return file;
}

/** A file as it is handed out. */
export interface OpenedFile {
  filename: string;
  bytes: number;
  /** Changes whenever the bytes do. */
  version: string;
  open: (range?: ByteRange) => Promise<AsyncIterable<Uint8Array>>;
}

/**
 * The file's bytes; 400 for purposes that OpenAI does not hand out either. Result files are base64 where the settings
 * say so, as OpenAI's are since 2024.
 */
export async function openFile(
  deps: Deps & Pick<Dependencies, 'config'>,
  projectId: string,
  id: string,
): Promise<OpenedFile> {
  const file = await getFile(deps, projectId, id);
  const { filename, bytes, purpose, sha256, storageKey } = file;
  if (NOT_DOWNLOADABLE.has(purpose)) throw badRequest(`Not allowed to download files of purpose: ${purpose}`);
  const open = (range?: ByteRange) => deps.storage.get(storageKey, range);
  return purpose === 'fine-tune-results' && deps.config.resultFilesBase64
    ? { filename, bytes: base64Length(bytes), version: `${sha256}-base64`, open: asBase64(bytes, open) }
    : { filename, bytes, version: sha256, open };
}

/** One page; a cursor the project never had is a mistake worth telling. */
export async function pageOfFiles({ database }: Pick<Deps, 'database'>, projectId: string, query: FileQuery) {
  const page = await listFiles(database.db, projectId, query);
  if (page.items.length === 0 && query.after && !(await fileExisted(database.db, projectId, query.after))) {
    throw invalidValue('after', `no file '${query.after}' to continue from.`);
  }
  return page;
}

/**
 * Deletes the file for its users at once. The bytes go too, unless a job that has not ended still reads them: creating
 * a job locks its files, so after the mark is committed no new job can appear.
 */
export async function deleteFile(deps: Deps, projectId: string, id: string): Promise<void> {
  const file = await markFileDeleted(deps.database.db, projectId, id);
  if (!file) throw noSuchFile(id);
  if (!(await isFileInUse(deps.database.db, projectId, id))) await deps.storage.delete(file.storageKey);
}
