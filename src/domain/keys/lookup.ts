/**
 * From an Authorization header to the project (or, for an admin key, the organization) it speaks for. Answers are kept for 5 s, so a revoked key dies within
 * that time on every node and a busy client does not cost a query per request.
 */
import { timingSafeEqual } from 'node:crypto';
import type { Database } from '../../db/client.ts';
import { findLiveAdminKey, touchAdminKey } from './admin-repository.ts';
import { sha256Hex } from './create.ts';
import { findLiveKey, touchKey } from './repository.ts';
import type { Grant, Role } from './scopes.ts';

export interface Identity extends Grant {
  keyId: string;
  /** '' for an admin key, which is the id of no project. */
  projectId: string;
  organization: { id: string; slug: string };
}

const CACHE_MS = 5_000;
const CACHE_ENTRIES = 10_000;
const HEADER = /^bearer[ \t]+sk-lathe-(admin-)?([0-9A-Za-z]{12})-([0-9A-Za-z]{43})[ \t]*$/i;
const HEADER_BYTES_MAX = 512;
/** Compared with when the key is unknown, so that both cases do the same work. */
const NOBODY = sha256Hex('');

type Cache = Map<string, { identity: Identity; until: number }>;
const caches = new WeakMap<Database, Cache>();

/**
 * The identity behind `header` ("Bearer sk-lathe-…"), or null when it is absent, malformed, unknown, revoked or
 * expired. Only good answers are cached, under the hash of the key.
 */
export async function authenticate(
  database: Database,
  header: string | null | undefined,
): Promise<Identity | null> {
  if (!header || header.length > HEADER_BYTES_MAX) return null;
  const match = HEADER.exec(header);
  if (!match) return null;
  const [, admin, id = '', secret = ''] = match;
  const kind = admin === undefined ? 'project' : 'admin';
  const digest = sha256Hex(secret);
  const cache = cacheOf(database);
  const cacheKey = `${kind}:${id}:${digest}`;
  const known = cache.get(cacheKey);
  if (known && known.until > performance.now()) return known.identity;

  const found = await (kind === 'admin' ? findLiveAdminKey : findLiveKey)(database.db, id);
  const equal = timingSafeEqual(
    Buffer.from(found?.secretSha256 ?? NOBODY, 'hex'),
    Buffer.from(digest, 'hex'),
  );
  if (!found || !equal) {
    cache.delete(cacheKey);
    return null;
  }
  const { projectId, organization, scopes } = found;
  const role = (found.role ?? 'owner') as Role;
  const identity: Identity = { kind, keyId: found.id, projectId, organization, scopes, role };
  if (cache.size >= CACHE_ENTRIES) cache.clear();
  cache.set(cacheKey, { identity, until: performance.now() + CACHE_MS });
  await (kind === 'admin' ? touchAdminKey : touchKey)(database.db, found.id);
  return identity;
}

function cacheOf(database: Database): Cache {
  let cache = caches.get(database);
  if (!cache) {
    cache = new Map();
    caches.set(database, cache);
  }
  return cache;
}
