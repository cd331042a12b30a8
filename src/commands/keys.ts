/** `lathe keys create|list|revoke`: keys of the default project or of another one, and admin keys. */
import type { Database } from '../db/client.ts';
import { createAdminKey, deleteAdminKey, pageOfAdminKeys } from '../domain/keys/admin.ts';
import { createKey, ensureDefaultProject, listKeys, revokeKey } from '../domain/keys/create.ts';
import { READ_ONLY } from '../domain/keys/scopes.ts';
import { checkedScopes } from '../domain/projects/project-keys.ts';
import { listAllProjects } from '../domain/projects/repository.ts';
import { badRequest, noSuchProject } from '../errors.ts';
import { table } from './table.ts';

const UNIT_MS: Record<string, number> = { m: 60_000, h: 3_600_000, d: 86_400_000 };
const ADMIN_KEYS_SHOWN = 1000;

export interface NewKeyOptions {
  /** Project id; unset means the default project. */
  project?: string;
  /** Names separated by commas, or 'read-only'; unset means all. */
  scopes?: string;
  expiresAt: Date | null;
  admin: boolean;
}

/** Prints the new key alone on standard output, so that scripts can take it. */
export async function createKeyCommand(
  database: Database,
  name: string,
  options: NewKeyOptions | null = null,
): Promise<string> {
  const project = await findProject(database, options?.project);
  const expiresAt = options?.expiresAt ?? null;
  if (options?.admin) {
    if (options.scopes !== undefined)
      throw badRequest('--scopes is for keys of a project, not for admin keys.');
    return (await createAdminKey({ database }, project.organization.id, name, expiresAt)).key;
  }
  const names = options?.scopes?.split(',').map((scope) => scope.trim()) ?? [];
  const scopes = checkedScopes(names.map((scope) => (scope === 'read-only' ? READ_ONLY : scope)));
  return (await createKey(database, project.id, name, expiresAt, { scopes })).key;
}

/** `30d`, `0.5d`, `12h`, `45m`, or a date in ISO form; null when it is neither or not ahead of `now`. */
export function parseExpiry(text: string, now = Date.now()): Date | null {
  const [, amount, unit] = /^(\d{1,6}(?:\.\d{1,6})?)([mhd])$/.exec(text) ?? [];
  const isDate = /^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2})?(Z|[+-]\d{2}:\d{2})?)?$/.test(text);
  const at = unit ? now + Number(amount) * UNIT_MS[unit]! : isDate ? Date.parse(text) : Number.NaN;
  return at > now ? new Date(at) : null;
}

/** One line per key: id, state, dates, name and scopes. */
export async function listKeysCommand(
  database: Database,
  options: { project?: string; admin: boolean },
): Promise<string> {
  const project = await findProject(database, options.project);
  if (options.admin) {
    const query = { limit: ADMIN_KEYS_SHOWN, order: 'asc' as const };
    const page = await pageOfAdminKeys({ database }, project.organization.id, query);
    return rows(page.items.map((key) => ({ ...key, shown: `sk-lathe-admin-${key.id}-…`, scopes: 'admin' })));
  }
  const keys = await listKeys(database, project.id);
  return rows(
    keys.map((key) => ({ ...key, shown: `sk-lathe-${key.id}-…`, scopes: key.scopes.join(',') || 'all' })),
  );
}

interface ShownKey {
  shown: string;
  name: string;
  scopes: string;
  createdAt: Date;
  lastUsedAt: Date | null;
  expiresAt: Date | null;
  revokedAt: Date | null;
}

function rows(keys: ShownKey[]): string {
  const day = (date: Date | null) => date?.toISOString().slice(0, 10) ?? 'never';
  const state = (key: ShownKey) => {
    if (key.revokedAt) return 'revoked';
    return key.expiresAt !== null && key.expiresAt.getTime() <= Date.now() ? 'expired' : 'live';
  };
  return table([
    ['KEY', 'STATE', 'CREATED', 'LAST USED', 'NAME', 'EXPIRES', 'SCOPES'],
    ...keys.map((key) => [
      ...[key.shown, state(key), day(key.createdAt), day(key.lastUsedAt)],
      ...[key.name, day(key.expiresAt), key.scopes],
    ]),
  ]);
}

/** `idOrKey` is the 12 characters, the shown prefix or the whole key, of any project. False when there is none live. */
export async function revokeKeyCommand(database: Database, idOrKey: string): Promise<boolean> {
  const [, admin, found] = /^sk-lathe-(admin-)?([0-9A-Za-z]{12})/.exec(idOrKey) ?? [];
  const id = found ?? idOrKey;
  const projects = await listAllProjects(database.db);
  if (admin === undefined)
    for (const project of projects) if (await revokeKey(database, project.id, id)) return true;
  for (const organization of new Set(projects.map((project) => project.organization.id))) {
    const revoked = await deleteAdminKey({ database }, organization, id).then(
      () => true,
      (error: { status?: number }) => {
        if (error.status === 404) return false;
        throw error;
      },
    );
    if (revoked) return true;
  }
  return false;
}

/** The project of this id, or the default one. Throws ApiError 404. */
async function findProject(database: Database, id: string | undefined) {
  if (id === undefined) return (await ensureDefaultProject(database)).project;
  const found = (await listAllProjects(database.db)).find((project) => project.id === id);
  if (!found) throw noSuchProject(id);
  return found;
}
