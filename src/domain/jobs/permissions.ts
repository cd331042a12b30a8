/**
 * Sharing a tuned model (or checkpoint) with other projects of the organization: they may use it, and nothing else. A
 * project's own key shares what the project owns; an admin key what any project of its organization owns.
 */
import { invalidValue, modelNotFound, noSuchPermission } from '../../errors.ts';
import { newId } from '../../ids.ts';
import type { Dependencies } from '../dependencies.ts';
import type { Identity } from '../keys/lookup.ts';
import type { TunedModelRow } from '../models/repository.ts';
import {
  deletePermission,
  findOwnedModel,
  insertPermissions,
  listPermissions,
  type PermissionQuery,
  type PermissionRow,
  projectsOf,
} from './permission-repository.ts';

type Deps = Pick<Dependencies, 'database'>;
type Caller = Pick<Identity, 'kind' | 'projectId' | 'organization'>;

/** The model, or ApiError 404: unknown, deleted and foreign ones are alike. */
async function owned({ database }: Deps, caller: Caller, model: string): Promise<TunedModelRow> {
  const owner =
    caller.kind === 'admin' ? { organizationId: caller.organization.id } : { projectId: caller.projectId };
  const found = await findOwnedModel(database.db, owner, model);
  if (!found) throw modelNotFound(model);
  return found;
}

/** Lets the projects use the model; returns one permission each, in the order asked. */
export async function shareModel(
  deps: Deps,
  caller: Caller,
  model: string,
  projectIds: readonly string[],
): Promise<PermissionRow[]> {
  const { projectId: ownerProjectId } = await owned(deps, caller, model);
  const known = await projectsOf(deps.database.db, caller.organization.id, projectIds);
  const unknown = projectIds.findIndex((id) => !known.has(id));
  if (unknown >= 0) {
    throw invalidValue(
      `project_ids[${unknown}]`,
      `the organization has no project '${projectIds[unknown]}'.`,
    );
  }
  const distinct = [...new Set(projectIds)];
  const rows = await insertPermissions(
    deps.database.db,
    distinct.map((projectId) => ({ id: newId('cp_'), ownerProjectId, model, projectId })),
  );
  return distinct.flatMap((id) => rows.find(({ projectId }) => projectId === id) ?? []);
}

export async function pageOfPermissions(deps: Deps, caller: Caller, model: string, query: PermissionQuery) {
  const { projectId } = await owned(deps, caller, model);
  return listPermissions(deps.database.db, projectId, model, query);
}

/** Takes a permission back; the model is unknown to that project from the next request on. */
export async function withdrawPermission(
  deps: Deps,
  caller: Caller,
  model: string,
  permissionId: string,
): Promise<void> {
  const { projectId } = await owned(deps, caller, model);
  if (!(await deletePermission(deps.database.db, projectId, model, permissionId)))
    throw noSuchPermission(permissionId);
}
