/** API keys: what is stored, who is let in, and how soon a revoked one is out. */
import { eq, sql } from 'drizzle-orm';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { openDatabase } from '../../src/db/client.ts';
import { apiKeys } from '../../src/db/schema.ts';
import {
  createFirstKey,
  createKey,
  ensureDefaultProject,
  listKeys,
  revokeKey,
  sha256Hex,
} from '../../src/domain/keys/create.ts';
import { authenticate } from '../../src/domain/keys/lookup.ts';
import { createProject, useDatabase } from '../helpers/database.ts';

const held = useDatabase();

afterEach(() => {
  vi.useRealTimers();
});

const bearer = (key: string) => `Bearer ${key}`;

describe('API keys', () => {
  it('has the documented form and stores the hash of the secret only', async () => {
    const project = await createProject(held.database);
    const { id, key } = await createKey(held.database, project.id, 'laptop');
    expect(key).toMatch(/^sk-lathe-[0-9A-Za-z]{12}-[0-9A-Za-z]{43}$/);
    const secret = key.split('-').at(-1)!;
    const [row] = await held.database.db.select().from(apiKeys).where(eq(apiKeys.id, id));
    expect(row!.secretSha256).toBe(sha256Hex(secret));
    expect(JSON.stringify(row)).not.toContain(secret);
    expect(JSON.stringify(await listKeys(held.database, project.id))).not.toContain(row!.secretSha256);
  });

  it('leads to the project and organization', async () => {
    const project = await createProject(held.database, 'one');
    const { id, key } = await createKey(held.database, project.id, 'k');
    const expected = {
      kind: 'project',
      keyId: id,
      projectId: project.id,
      organization: project.organization,
      scopes: [],
      role: 'owner',
    };
    expect(await authenticate(held.database, bearer(key))).toEqual(expected);
    expect(await authenticate(held.database, `bearer\t${key} `)).toEqual(expected);
    const [row] = await held.database.db.select().from(apiKeys).where(eq(apiKeys.id, id));
    expect(row!.lastUsedAt).toBeInstanceOf(Date);
  });

  it('answers null for everything else', async () => {
    const project = await createProject(held.database, 'two');
    const { key } = await createKey(held.database, project.id, 'k');
    const expired = await createKey(held.database, project.id, 'old', new Date(Date.now() - 1000));
    const flipped = key.slice(0, -1) + (key.endsWith('a') ? 'b' : 'a');
    const headers = [
      undefined,
      null,
      '',
      'Bearer',
      'Bearer ',
      key,
      `Basic ${key}`,
      bearer(flipped),
      bearer(`sk-lathe-${'0'.repeat(12)}-${'0'.repeat(43)}`),
      bearer(`${key}x`),
      bearer(`${key}, ${key}`),
      bearer(expired.key),
      bearer(key + ' '.repeat(600)),
      bearer('sk-läthe'),
    ];
    for (const header of headers)
      expect(await authenticate(held.database, header), String(header)).toBeNull();
    expect(await authenticate(held.database, bearer(key))).not.toBeNull();
  });

  it('does not find a key by its id with the secret of another', async () => {
    const project = await createProject(held.database, 'three');
    const [a, b] = [
      await createKey(held.database, project.id, 'a'),
      await createKey(held.database, project.id, 'b'),
    ];
    const mixed = `sk-lathe-${a.id}-${b.key.split('-').at(-1)}`;
    expect(await authenticate(held.database, bearer(mixed))).toBeNull();
  });

  it('is refused at once by a process that has not seen it, and within 5 s by one that has', async () => {
    const project = await createProject(held.database, 'four');
    const { id, key } = await createKey(held.database, project.id, 'k');
    vi.useFakeTimers({ toFake: ['performance'] });
    expect(await authenticate(held.database, bearer(key))).not.toBeNull();
    expect(await revokeKey(held.database, project.id, id)).toBe(true);
    expect(await revokeKey(held.database, project.id, id)).toBe(false);
    const other = openDatabase(held.database.url, { connections: 1 });
    expect(await authenticate(other, bearer(key))).toBeNull();
    await other.close();
    vi.advanceTimersByTime(5_000);
    expect(await authenticate(held.database, bearer(key))).toBeNull();
  });

  it('can be revoked by its own project only', async () => {
    const [mine, theirs] = [
      await createProject(held.database, 'mine'),
      await createProject(held.database, 'theirs'),
    ];
    const { id } = await createKey(held.database, mine.id, 'k');
    expect(await revokeKey(held.database, theirs.id, id)).toBe(false);
    expect(await listKeys(held.database, theirs.id)).toEqual([]);
  });

  it('compares in constant time: a right prefix of the secret takes no longer than a wrong one', async () => {
    const source = authenticate.toString();
    expect(source).toContain('timingSafeEqual');
    expect(source).not.toMatch(/secretSha256\s*[!=]==?/);
  });
});

describe('the first start', () => {
  it('makes one project however many processes try', async () => {
    await held.database.db.execute(sql`truncate organizations cascade`);
    const all = await Promise.all(Array.from({ length: 5 }, () => ensureDefaultProject(held.database)));
    expect(new Set(all.map((a) => a.project.id)).size).toBe(1);
    expect(all.filter((a) => a.created)).toHaveLength(1);
  });

  it('gives a key while none works, and only then', async () => {
    await held.database.db.execute(sql`truncate organizations cascade`);
    const keys = await Promise.all(Array.from({ length: 5 }, () => createFirstKey(held.database)));
    const [key, ...more] = keys.filter((each) => each !== null);
    expect(more).toEqual([]);
    const identity = await authenticate(held.database, bearer(key!));
    expect(await createFirstKey(held.database)).toBeNull();
    await revokeKey(held.database, identity!.projectId, identity!.keyId);
    expect(await createFirstKey(held.database)).not.toBeNull();
  });
});
