/**
 * Makes, lists and revokes API keys, and the default project of a first start. A key is shown once; only the sha256 of
 * its secret is stored (256 random bits need no slow hash).
 */
import { createHash } from 'node:crypto';
import type { Database, Queryable } from '../../db/client.ts';
import { newId, randomBase62 } from '../../ids.ts';
import {
  countLiveKeys,
  findFirstProject,
  insertKey,
  insertProject,
  listKeyRows,
  lockFirstStart,
  type ProjectRecord,
  revokeKeyRow,
} from './repository.ts';

const ID_LENGTH = 12;
const SECRET_LENGTH = 43; // 43 · log2(62) = 256 bits

export interface NewKey {
  id: string;
  /** `sk-lathe-<id>-<secret>`; never seen again. */
  key: string;
  createdAt: Date;
}

export const sha256Hex = (text: string) => createHash('sha256').update(text).digest('hex');

/** A fresh key: its text, and what of it is stored. */
export function newSecret(prefix: 'sk-lathe-' | 'sk-lathe-admin-') {
  const id = randomBase62(ID_LENGTH);
  const secret = randomBase62(SECRET_LENGTH);
  return { id, key: `${prefix}${id}-${secret}`, secretSha256: sha256Hex(secret) };
}

export interface KeyLimits {
  /** Scopes as readScopes() returns them; empty = all. */
  scopes?: string[];
  /** Account of the project that the key belongs to; null = the project's own key, with role owner. */
  serviceAccountId?: string | null;
}

/** Creates a key of the project. `expiresAt` null means it never ends. */
export async function createKey(
  database: { db: Queryable },
  projectId: string,
  name: string,
  expiresAt: Date | null = null,
  { scopes = [], serviceAccountId = null }: KeyLimits = {},
): Promise<NewKey> {
  const { id, key, secretSha256 } = newSecret('sk-lathe-');
  const row = { id, projectId, name, secretSha256, expiresAt, scopes, serviceAccountId };
  return { id, key, ...(await insertKey(database.db, row)) };
}

/** The project's keys, oldest first, without anything secret. */
export function listKeys(database: Pick<Database, 'db'>, projectId: string) {
  return listKeyRows(database.db, projectId);
}

/** True when the key was live and is now revoked; other processes notice within 5 s. */
export function revokeKey(database: Pick<Database, 'db'>, projectId: string, id: string): Promise<boolean> {
  return revokeKeyRow(database.db, projectId, id);
}

/** A key for the default project when it has none that works, else null. Several processes may ask at once. */
export async function createFirstKey(database: Database): Promise<string | null> {
  const { project } = await ensureDefaultProject(database);
  return database.transaction(async (tx) => {
    await lockFirstStart(tx);
    if ((await countLiveKeys(tx, project.id)) > 0) return null;
    return (await createKey({ db: tx }, project.id, 'default')).key;
  });
}

/** The default organization and project, made when there is none; `created` tells which of several starters made it. */
export async function ensureDefaultProject(
  database: Database,
): Promise<{ project: ProjectRecord; created: boolean }> {
  return database.transaction(async (tx) => {
    await lockFirstStart(tx);
    const found = await findFirstProject(tx);
    if (found) return { project: found, created: false };
    const project = {
      id: newId('proj_'),
      name: 'Default project',
      organization: { id: newId('org-'), slug: 'lathe' },
    };
    await insertProject(tx, project, 'Default organization');
    return { project, created: true };
  });
}
