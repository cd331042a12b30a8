/**
 * Looks files up, opens their bytes and deletes them. Unknown, foreign, expired and deleted ids are one and the same.
 */
import type { Readable } from 'node:stream';
import { badRequest, invalidValue, noSuchFile } from '../../errors.ts';
import type { ByteRange } from '../../storage/storage.ts';
import type { Dependencies } from '../dependencies.ts';
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

/** The file and a way to its bytes; 400 for purposes that OpenAI does not hand out either. */
export async function openFile(
  deps: Deps,
  projectId: string,
  id: string,
): Promise<{ file: FileRow; open: (range?: ByteRange) => Promise<Readable> }> {
  const file = await getFile(deps, projectId, id);
  if (NOT_DOWNLOADABLE.has(file.purpose))
    throw badRequest(`Not allowed to download files of purpose: ${file.purpose}`);
  return { file, open: (range) => deps.storage.get(file.storageKey, range) };
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
