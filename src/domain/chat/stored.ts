/** Completions that were asked to be kept: stored when they end, found, listed, given metadata, deleted. */
import { ApiError, invalidValue } from '../../errors.ts';
import type { Dependencies } from '../dependencies.ts';
import { requireStoreRoom } from '../quotas/quotas.ts';
import {
  deleteStored,
  findMessages,
  findStored,
  insertStored,
  listStored,
  type StoredMessages,
  type StoredQuery,
  type StoredRow,
  updateMetadata,
} from './stored-repository.ts';

export type { StoredMessages, StoredRow } from './stored-repository.ts';

type Deps = Pick<Dependencies, 'database'>;

export interface CompletionToStore {
  id: string;
  model: string;
  metadata: Record<string, string> | null;
  /** What was asked and is only shown when it is asked for: the messages. */
  request: Record<string, unknown>;
  /** The answer and what is shown with it. */
  completion: Record<string, unknown>;
}

/** Before a completion that is to be kept is made. Throws ApiError 403 `storage_quota_exceeded`. */
export function requireRoomFor(
  { database, config }: Pick<Dependencies, 'database' | 'config'>,
  projectId: string,
  messages: readonly unknown[],
): Promise<void> {
  const bytes = () => Buffer.byteLength(JSON.stringify(messages));
  return requireStoreRoom(database.db, config, projectId, bytes);
}

export async function storeCompletion(
  { database }: Deps,
  projectId: string,
  stored: CompletionToStore,
): Promise<void> {
  await insertStored(database.db, { ...stored, projectId });
}

/** The completion, or ApiError 404. */
export async function getStored({ database }: Deps, projectId: string, id: string): Promise<StoredRow> {
  const row = await findStored(database.db, projectId, id);
  if (!row) throw noSuchCompletion(id);
  return row;
}

/** The messages that a completion answered, or ApiError 404. */
export async function getMessages(
  { database }: Deps,
  projectId: string,
  id: string,
): Promise<StoredMessages> {
  const row = await findMessages(database.db, projectId, id);
  if (!row) throw noSuchCompletion(id);
  return row;
}

/** One page, shorter than asked for when its completions are large; a cursor the project never had is a mistake worth telling. */
export async function pageOfStored({ database }: Deps, projectId: string, query: StoredQuery) {
  if (query.after !== undefined && !(await findStored(database.db, projectId, query.after)))
    throw invalidValue('after', `no chat completion '${query.after}' to continue from.`);
  return listStored(database.db, projectId, query);
}

/** Replaces the metadata; the completion as it is then, or ApiError 404. */
export async function setMetadata(
  { database }: Deps,
  projectId: string,
  id: string,
  metadata: Record<string, string> | null,
): Promise<StoredRow> {
  const row = await updateMetadata(database.db, projectId, id, metadata);
  if (!row) throw noSuchCompletion(id);
  return row;
}

/** Deletes it, or ApiError 404. */
export async function removeStored({ database }: Deps, projectId: string, id: string): Promise<void> {
  if (!(await deleteStored(database.db, projectId, id))) throw noSuchCompletion(id);
}

function noSuchCompletion(id: string): ApiError {
  const message = `No chat completion found with id '${id}'. Only completions created with 'store: true' can be found.`;
  return new ApiError({ status: 404, message, param: 'completion_id', code: 'completion_not_found' });
}
