/** `lathe projects create|list|archive`, over all organizations. */
import type { Database } from '../db/client.ts';
import { ensureDefaultProject } from '../domain/keys/create.ts';
import { lockFirstStart } from '../domain/keys/repository.ts';
import { archiveProject, createProject } from '../domain/projects/projects.ts';
import {
  findOrganizationBySlug,
  insertOrganization,
  listAllProjects,
} from '../domain/projects/repository.ts';
import { badRequest, noSuchProject } from '../errors.ts';
import { newId } from '../ids.ts';
import { table } from './table.ts';

/** A segment of `ft:` names, so neither a colon nor a slash may be in it. */
const SLUG = /^[a-z0-9][a-z0-9-]{0,39}$/;

/** Prints the new project's id alone. `slug` names the organization, which is made when it is new. */
export async function createProjectCommand(
  database: Database,
  name: string,
  slug: string | undefined,
): Promise<string> {
  const { project } = await ensureDefaultProject(database);
  const organizationId = slug === undefined ? project.organization.id : await organization(database, slug);
  return (await createProject({ database }, organizationId, name)).id;
}

async function organization(database: Database, slug: string): Promise<string> {
  if (!SLUG.test(slug)) {
    throw badRequest(`'${slug}' cannot name an organization: expected 1 to 40 of a-z, 0-9 and '-'.`);
  }
  return database.transaction(async (tx) => {
    await lockFirstStart(tx); // two commands at once must not make it twice
    const found = await findOrganizationBySlug(tx, slug);
    if (found) return found.id;
    const id = newId('org-');
    await insertOrganization(tx, { id, slug, name: slug });
    return id;
  });
}

/** One line per project, oldest first. */
export async function listProjectsCommand(database: Database): Promise<string> {
  await ensureDefaultProject(database);
  const projects = await listAllProjects(database.db);
  return table([
    ['PROJECT', 'STATE', 'CREATED', 'ORGANIZATION', 'NAME'],
    ...projects.map((project) => [
      project.id,
      project.archivedAt ? 'archived' : 'active',
      project.createdAt.toISOString().slice(0, 10),
      project.organization.slug,
      project.name,
    ]),
  ]);
}

/** Archives the project; throws ApiError when there is none or when it is its organization's last. */
export async function archiveProjectCommand(database: Database, id: string): Promise<void> {
  const found = (await listAllProjects(database.db)).find((project) => project.id === id);
  if (!found) throw noSuchProject(id);
  await archiveProject({ database }, found.organization.id, id);
}
