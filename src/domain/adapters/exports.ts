/**
 * Exports: a tuned model as a folder that needs no adapter, merged by a worker and kept for a while. A fully
 * fine-tuned model is such a folder already.
 */
import { badRequest, invalidValue, noSuchExport, unsupportedValue } from '../../errors.ts';
import { newId } from '../../ids.ts';
import type { Dependencies } from '../dependencies.ts';
import { resolveOwnModel } from '../models/registry.ts';
import { lockProject } from '../quotas/repository.ts';
import {
  countLiveExports,
  endOperation,
  findLiveExport,
  findOperation,
  insertOperation,
  listExports,
  type OperationQuery,
  type OperationRow,
} from './operations-repository.ts';

type Deps = Pick<Dependencies, 'config' | 'database'>;

/** Begins the export, or returns the one there is. Throws ApiError for unknown, shared and base models, and over the quota. */
export async function createExport(deps: Deps, projectId: string, model: string): Promise<OperationRow> {
  const { config, database } = deps;
  const { tuned } = await resolveOwnModel(deps, projectId, model);
  if (!tuned) throw unsupportedValue('model', 'is a base model: there is nothing to merge.');
  return database.transaction(async (tx) => {
    await lockProject(tx, projectId);
    const existing = await findLiveExport(tx, projectId, model);
    if (existing) return existing;
    if ((await countLiveExports(tx, projectId)) >= config.maxExports) {
      const message = `A project may keep ${config.maxExports} exports at a time. Delete one first.`;
      throw badRequest(message, null, 'too_many_exports');
    }
    const operation = {
      ...{ id: newId('export_'), projectId, kind: 'export', baseModel: tuned.baseModel, modelId: tuned.id },
      ...{ inputPrefix: tuned.storagePrefix, inputFiles: tuned.files, baseDigest: tuned.baseDigest },
    };
    if (tuned.kind !== 'full') return insertOperation(tx, operation);
    const whole = { storagePrefix: tuned.storagePrefix, files: tuned.files, finishedAt: new Date() };
    return insertOperation(tx, { ...operation, status: 'succeeded', ...whole }, config.exportSeconds);
  });
}

/** The export, or ApiError 404; one that is over is as good as unknown. */
export async function getExport(
  { database }: Pick<Deps, 'database'>,
  projectId: string,
  id: string,
): Promise<OperationRow> {
  const row = await findOperation(database.db, projectId, 'export', id);
  if (!row) throw noSuchExport(id);
  return row;
}

export async function pageOfExports(deps: Deps, projectId: string, query: OperationQuery) {
  const page = await listExports(deps.database.db, projectId, query);
  if (page.items.length === 0 && query.after) {
    if (!(await findOperation(deps.database.db, projectId, 'export', query.after)))
      throw invalidValue('after', `no export '${query.after}' to continue from.`);
  }
  return page;
}

/** Takes the export back, also while it is being made; its bytes go with the next sweep. */
export async function deleteExport({ database }: Deps, projectId: string, id: string): Promise<void> {
  if (!(await endOperation(database.db, projectId, 'export', id))) throw noSuchExport(id);
}
