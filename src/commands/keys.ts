/** `lathe keys create|list|revoke`, for the default project. */

import type { Database } from '../db/client.ts';
import { createKey, ensureDefaultProject, listKeys, revokeKey } from '../domain/keys/create.ts';

const DAY_MS = 86_400_000;

/** Prints the new key alone on standard output, so that scripts can take it. */
export async function createKeyCommand(
  database: Database,
  name: string,
  expiresInDays: number | null,
): Promise<string> {
  const { project } = await ensureDefaultProject(database);
  const expires = expiresInDays === null ? null : new Date(Date.now() + expiresInDays * DAY_MS);
  return (await createKey(database, project.id, name, expires)).key;
}

/** One line per key: id, state, dates and name. */
export async function listKeysCommand(database: Database): Promise<string> {
  const { project } = await ensureDefaultProject(database);
  const day = (date: Date | null) => date?.toISOString().slice(0, 10) ?? 'never';
  const keys = await listKeys(database, project.id);
  const rows = keys.map((key) => {
    const expired = key.expiresAt !== null && key.expiresAt.getTime() <= Date.now();
    const state = key.revokedAt ? 'revoked' : expired ? 'expired' : 'live';
    return [`sk-lathe-${key.id}-…`, state, day(key.createdAt), day(key.lastUsedAt), key.name];
  });
  return table([['KEY', 'STATE', 'CREATED', 'LAST USED', 'NAME'], ...rows]);
}

/** `idOrKey` is the 12 characters, the shown prefix or the whole key. False when there is no such live key. */
export async function revokeKeyCommand(database: Database, idOrKey: string): Promise<boolean> {
  const { project } = await ensureDefaultProject(database);
  const id = /^sk-lathe-([0-9A-Za-z]{12})/.exec(idOrKey)?.[1] ?? idOrKey;
  return revokeKey(database, project.id, id);
}

/** Left-aligned columns, two spaces apart. */
export function table(rows: string[][]): string {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  return rows
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
