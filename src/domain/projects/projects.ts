/**
 * Projects of an organization: made, found, changed, archived. An archived project keeps everything it has; its keys are
 * refused within 5 s, and nothing of it goes on running.
 */
import { badRequest, invalidValue, noSuchProject } from '../../errors.ts';
import { newId } from '../../ids.ts';
import type { Dependencies } from '../dependencies.ts';
import { cancelJobsOfArchived } from '../jobs/control.ts';
import {
  archiveProjectRow,
  findProject,
  insertProjectRow,
  listProjects,
  lockActiveProjects,
  type PageQuery,
  type ProjectChange,
  type ProjectRow,
  updateProject,
} from './repository.ts';

type Deps = Pick<Dependencies, 'database'>;

/** A project that has this `id` already was made by an earlier try of the same request, and is the answer. */
export function createProject(
  { database }: Deps,
  organizationId: string,
  name: string,
  id: string = newId('proj_'),
): Promise<ProjectRow> {
  return insertProjectRow(database.db, { id, organizationId, name });
}

/** The project, or ApiError 404: unknown and foreign ids are answered alike. */
export async function getProject(
  { database }: Deps,
  organizationId: string,
  id: string,
): Promise<ProjectRow> {
  const project = await findProject(database.db, organizationId, id);
  if (!project) throw noSuchProject(id);
  return project;
}

/** As getProject(), but 400 when it is archived: nothing can be made or changed in it. */
export async function getActiveProject(deps: Deps, organizationId: string, id: string): Promise<ProjectRow> {
  const project = await getProject(deps, organizationId, id);
  if (project.archivedAt) throw badRequest(`Project ${id} is archived.`, 'project_id', 'project_archived');
  return project;
}

export async function pageOfProjects(
  { database }: Deps,
  organizationId: string,
  query: PageQuery & { includeArchived: boolean },
) {
  if (query.after && !(await findProject(database.db, organizationId, query.after))) {
    throw invalidValue('after', `no project '${query.after}' to continue from.`);
  }
  return listProjects(database.db, organizationId, query);
}

/** The changed project. Throws ApiError 404, or 400 when it is archived. */
export async function modifyProject(
  deps: Deps,
  organizationId: string,
  id: string,
  change: ProjectChange,
): Promise<ProjectRow> {
  const project = await getActiveProject(deps, organizationId, id);
  if (Object.keys(change).length === 0) return project;
  const changed = await updateProject(deps.database.db, organizationId, id, change);
  if (!changed) throw badRequest(`Project ${id} is archived.`, 'project_id', 'project_archived');
  return changed;
}

/**
 * Archives the project and cancels its jobs; again changes nothing. Its batches end with its keys. 400 for the last one:
 * an organization keeps one that can be used.
 */
export async function archiveProject(
  { database }: Deps,
  organizationId: string,
  id: string,
): Promise<ProjectRow> {
  const archived = await database.transaction(async (tx) => {
    const active = await lockActiveProjects(tx, organizationId);
    const project = await findProject(tx, organizationId, id);
    if (!project) throw noSuchProject(id);
    if (!project.archivedAt && active <= 1) {
      const message = 'The last active project of an organization cannot be archived.';
      throw badRequest(message, 'project_id', 'last_project');
    }
    return (await archiveProjectRow(tx, organizationId, id))!;
  });
  await cancelJobsOfArchived({ database }, id); // cut off here, a sweep does the rest
  return archived;
}
