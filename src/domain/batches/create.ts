/** Batches as their owners see them: created, found, listed, cancelled. Who runs them is runner.ts's affair. */
import { badRequest, conflict, insufficientScope, invalidValue, noSuchBatch } from '../../errors.ts';
import { newId } from '../../ids.ts';
import type { Dependencies } from '../dependencies.ts';
import { lockFile } from '../files/repository.ts';
import type { Identity } from '../keys/lookup.ts';
import { allows } from '../keys/scopes.ts';
import { requireBatchSlot } from '../quotas/quotas.ts';
import { type BatchRow, findBatch, insertBatch, listBatches, requestCancel } from './repository.ts';

type Deps = Pick<Dependencies, 'database'>;
type CreateDeps = Pick<Dependencies, 'config' | 'database'>;

export interface BatchRequestFields {
  endpoint: string;
  inputFileId: string;
  completionWindow: string;
  metadata: Record<string, string> | null;
  outputExpiresSeconds: number | null;
}

/**
 * The batch, which waits for a runner. One that already has this `id` was made by an earlier try of the same request,
 * and is the answer. ApiError 400 when the input file is unknown or not for batches, 403 when the key may not ask models,
 * 429 over the quota.
 */
export function createBatch(
  deps: CreateDeps,
  identity: Identity,
  fields: BatchRequestFields,
  id: string = newId('batch_'),
): Promise<BatchRow> {
  const { projectId, keyId } = identity;
  return deps.database.transaction(async (tx) => {
    const made = await findBatch(tx, projectId, id);
    if (made) return made;
    const file = await lockFile(tx, projectId, fields.inputFileId);
    if (!file) {
      throw badRequest(`invalid input_file_id: ${fields.inputFileId}`, 'input_file_id', 'file_not_found');
    }
    if (file.purpose !== 'batch') {
      throw invalidValue(
        'input_file_id',
        `the file has purpose '${file.purpose}'; a batch reads files of purpose 'batch'.`,
      );
    }
    // What the lines ask for is asked with this key.
    if (!allows(identity, 'api.model.request')) throw insufficientScope('api.model.request');
    await requireBatchSlot(tx, deps.config, projectId);
    return insertBatch(tx, { id, projectId, keyId, ...fields });
  });
}

/** The batch, or ApiError 404. */
export async function getBatch({ database }: Deps, projectId: string, id: string): Promise<BatchRow> {
  const batch = await findBatch(database.db, projectId, id);
  if (!batch) throw noSuchBatch(id);
  return batch;
}

/** One page, newest first; a cursor the project never had is a mistake worth telling. */
export async function pageOfBatches(
  { database }: Deps,
  projectId: string,
  query: { limit: number; after?: string },
) {
  if (query.after !== undefined && !(await findBatch(database.db, projectId, query.after)))
    throw invalidValue('after', `no batch '${query.after}' to continue from.`);
  return listBatches(database.db, projectId, query);
}

/** Asks for the batch's end; answers it as cancelling. 409 when it has ended, which SDKs are told not to repeat. */
export async function cancelBatch(deps: Deps, projectId: string, id: string): Promise<BatchRow> {
  const asked = await requestCancel(deps.database.db, projectId, id);
  if (asked) return asked;
  const { status } = await getBatch(deps, projectId, id);
  throw conflict(`Cannot cancel a batch with status '${status}'.`, 'batch_not_cancellable');
}
