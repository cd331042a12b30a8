/**
 * What a key may do: OpenAI's scope names, how they imply each other, and what a role leaves of them. Knows no route and
 * no database.
 */

/** Scopes of project keys. `…write` includes `…read`. */
export const PROJECT_SCOPES = [
  'api.files.read',
  'api.files.write',
  'api.fine_tuning.jobs.read',
  'api.fine_tuning.jobs.write',
  'api.fine_tuning.checkpoints.read',
  'api.fine_tuning.checkpoints.write',
  'api.model.read',
  'api.model.write',
  'api.model.request',
  'api.chat.completions.read',
  'api.chat.completions.write',
  'api.batch.read',
  'api.batch.write',
  'api.webhooks.read',
  'api.webhooks.write',
] as const;

/** Scopes of admin keys; no project key can hold the first two. */
const ADMIN_SCOPES = [
  'api.management.read',
  'api.management.write',
  'api.fine_tuning.checkpoints.read',
  'api.fine_tuning.checkpoints.write',
] as const;

/** Every reading scope at once: the "read only" key. */
export const READ_ONLY = 'api.all.read';

export type ProjectScope = (typeof PROJECT_SCOPES)[number];
export type Scope = ProjectScope | (typeof ADMIN_SCOPES)[number];

/** `owner` may do everything in the project; `member` neither deletes models nor manages webhooks or sharing. */
export const ROLES = ['owner', 'member'] as const;
export type Role = (typeof ROLES)[number];

const OWNERS_ONLY: ReadonlySet<Scope> = new Set<Scope>([
  'api.model.write',
  'api.webhooks.write',
  'api.fine_tuning.checkpoints.write',
]);

/** Older spellings that OpenAI's dashboard still writes beside the new ones. */
const OLD_NAMES: Readonly<Record<string, ProjectScope>> = {
  'model.read': 'api.model.read',
  'model.request': 'api.model.request',
};

export interface Grant {
  kind: 'project' | 'admin';
  role: Role;
  /** Empty = everything that kind and role allow. */
  scopes: readonly string[];
}

/** The scopes as they are stored (sorted, once each, new names), or the first that is not one of a project key. */
export function readScopes(given: readonly string[]): { scopes: string[] } | { unknown: string } {
  const scopes = given.map((scope) => OLD_NAMES[scope] ?? scope);
  const known = new Set<string>([...PROJECT_SCOPES, READ_ONLY]);
  const at = scopes.findIndex((scope) => !known.has(scope));
  return at >= 0 ? { unknown: given[at] ?? '' } : { scopes: [...new Set(scopes)].sort() };
}

/** Whether the grant includes the scope that a route asks for. */
export function allows(grant: Grant, needed: Scope): boolean {
  if (grant.kind === 'admin') return (ADMIN_SCOPES as readonly string[]).includes(needed);
  if (!(PROJECT_SCOPES as readonly string[]).includes(needed)) return false;
  if (grant.role !== 'owner' && OWNERS_ONLY.has(needed)) return false;
  if (grant.scopes.length === 0 || grant.scopes.includes(needed)) return true;
  if (!needed.endsWith('.read')) return false;
  return grant.scopes.includes(READ_ONLY) || grant.scopes.includes(needed.replace(/read$/, 'write'));
}
