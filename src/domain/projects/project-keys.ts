/**
 * Keys and service accounts of a project, as an administrator sees them. A new key's text is in the answer of its
 * creation and nowhere else.
 */
import { badRequest, invalidValue, noSuchApiKey, noSuchServiceAccount } from '../../errors.ts';
import { newId } from '../../ids.ts';
import type { Dependencies } from '../dependencies.ts';
import { createKey, type NewKey, revokeKey } from '../keys/create.ts';
import { type Role, readScopes } from '../keys/scopes.ts';
import {
  deleteAccountRow,
  findAccount,
  findProjectKey,
  insertAccount,
  listAccounts,
  listProjectKeys,
  type ProjectKeyRow,
  updateAccount,
  updateKey,
  wasInProject,
} from './accounts-repository.ts';
import type { PageQuery, ServiceAccountRow } from './repository.ts';

type Deps = Pick<Dependencies, 'database'>;

/** The scopes as they are stored. Throws ApiError 400 for one that a project key cannot have. */
export function checkedScopes(given: readonly string[]): string[] {
  const read = readScopes(given);
  if ('scopes' in read) return read.scopes;
  throw invalidValue('scopes', `'${read.unknown.slice(0, 80)}' is not a scope of a project key.`);
}

/** The moment `seconds` from now; null = never. */
export const endsIn = (seconds: number | null | undefined): Date | null =>
  seconds == null ? null : new Date(Date.now() + seconds * 1000);

export interface KeyRequest {
  name: string;
  scopes?: string[];
  expiresInSeconds?: number | null;
}

export interface CreatedKey extends NewKey {
  name: string;
  expiresAt: Date | null;
}

/** A new key of the project, or of one of its service accounts (404 when there is no such account). */
export async function createProjectKey(
  { database }: Deps,
  projectId: string,
  { name, scopes = [], expiresInSeconds }: KeyRequest,
  serviceAccountId: string | null = null,
): Promise<CreatedKey> {
  const limits = { scopes: checkedScopes(scopes), serviceAccountId };
  const expiresAt = endsIn(expiresInSeconds);
  if (serviceAccountId !== null) await getAccount({ database }, projectId, serviceAccountId);
  const created = await createKey(database, projectId, name, expiresAt, limits);
  return { ...created, name, expiresAt };
}

/** The key, or ApiError 404; revoked ones are as good as unknown. */
export async function getProjectKey(
  { database }: Deps,
  projectId: string,
  id: string,
): Promise<ProjectKeyRow> {
  const key = await findProjectKey(database.db, projectId, id);
  if (!key) throw noSuchApiKey(id);
  return key;
}

export async function pageOfProjectKeys({ database }: Deps, projectId: string, query: PageQuery) {
  await checkCursor({ database }, 'keys', projectId, query.after);
  return listProjectKeys(database.db, projectId, query);
}

/** Changes scopes and end of a key, both or one. Throws ApiError 404, or 400 for a key that has expired. */
export async function modifyProjectKey(
  deps: Deps,
  projectId: string,
  id: string,
  { scopes, expiresInSeconds }: { scopes?: string[]; expiresInSeconds?: number },
): Promise<ProjectKeyRow> {
  await getProjectKey(deps, projectId, id);
  const change: { scopes?: string[]; expiresAt?: Date } = {};
  if (scopes !== undefined) change.scopes = checkedScopes(scopes);
  if (expiresInSeconds !== undefined) change.expiresAt = new Date(Date.now() + expiresInSeconds * 1000);
  if (Object.keys(change).length === 0) {
    throw badRequest("Give 'scopes', 'expires_in_seconds' or both.", 'scopes', 'missing_required_parameter');
  }
  if (!(await updateKey(deps.database.db, projectId, id, change))) {
    throw badRequest(`API key ${id} has expired and cannot be changed.`, 'api_key_id', 'api_key_expired');
  }
  return getProjectKey(deps, projectId, id);
}

/** Revokes the key; refused everywhere within 5 s. */
export async function deleteProjectKey({ database }: Deps, projectId: string, id: string): Promise<void> {
  if (!(await revokeKey(database, projectId, id))) throw noSuchApiKey(id);
}

/** A new account, with a first key unless that is not wanted; both or none. */
export async function createServiceAccount(
  { database }: Deps,
  projectId: string,
  { name, withKey, expiresInSeconds }: { name: string; withKey: boolean; expiresInSeconds?: number | null },
): Promise<{ account: ServiceAccountRow; key: CreatedKey | null }> {
  return database.transaction(async (tx) => {
    const account = await insertAccount(tx, { id: newId('svc_acct_'), projectId, name, role: 'member' });
    if (!withKey) return { account, key: null };
    const expiresAt = endsIn(expiresInSeconds);
    const limits = { serviceAccountId: account.id };
    const key = await createKey({ db: tx }, projectId, 'Secret Key', expiresAt, limits);
    return { account, key: { ...key, name: 'Secret Key', expiresAt } };
  });
}

export async function getAccount(
  { database }: Deps,
  projectId: string,
  id: string,
): Promise<ServiceAccountRow> {
  const account = await findAccount(database.db, projectId, id);
  if (!account) throw noSuchServiceAccount(id);
  return account;
}

export async function pageOfAccounts({ database }: Deps, projectId: string, query: PageQuery) {
  await checkCursor({ database }, 'accounts', projectId, query.after);
  return listAccounts(database.db, projectId, query);
}

export async function modifyAccount(
  deps: Deps,
  projectId: string,
  id: string,
  change: { name?: string; role?: Role },
): Promise<ServiceAccountRow> {
  const account = await getAccount(deps, projectId, id);
  if (Object.keys(change).length === 0) return account;
  const changed = await updateAccount(deps.database.db, projectId, id, change);
  if (!changed) throw noSuchServiceAccount(id);
  return changed;
}

/** Deletes the account and revokes its keys. */
export async function deleteAccount({ database }: Deps, projectId: string, id: string): Promise<void> {
  const deleted = await database.transaction((tx) => deleteAccountRow(tx, projectId, id));
  if (!deleted) throw noSuchServiceAccount(id);
}

async function checkCursor(
  { database }: Deps,
  table: 'keys' | 'accounts',
  projectId: string,
  after: string | undefined,
): Promise<void> {
  if (after === undefined || (await wasInProject(database.db, table, projectId, after))) return;
  throw invalidValue('after', `no item '${after}' to continue from.`);
}
