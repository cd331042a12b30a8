/**
 * Every route of the app × every kind of key that must not pass: generated from the routes, so a new one is in here
 * without a line of its own. What a key may see of other projects is isolation.test.ts's.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { createAdminKey, deleteAdminKey } from '../../src/domain/keys/admin.ts';
import { createKey, revokeKey } from '../../src/domain/keys/create.ts';
import { allows, PROJECT_SCOPES, type Scope } from '../../src/domain/keys/scopes.ts';
import { createServiceAccount } from '../../src/domain/projects/project-keys.ts';
import { archiveProject, createProject } from '../../src/domain/projects/projects.ts';
import { OPEN_ROUTES } from '../../src/http/auth.ts';
import { ROUTE_RULES } from '../../src/http/scopes.ts';
import { type Answer, useApp } from '../helpers/app.ts';

const t = useApp();
let admin: string;
/** Keys that are no keys any more, or never were. */
const dead = new Map<string, string>();

const routes = () =>
  t.app.routes
    .filter((route) => route.method !== 'ALL' && !OPEN_ROUTES.has(route.path))
    .map(({ method, path }) => ({ method, path, scope: ROUTE_RULES[`${method} ${path}`]?.scope }));
const urlOf = (pattern: string) => pattern.replace(/:\w+(\{[^}]*\})?/g, 'some-id');
const ask = (route: { method: string; path: string }, key: string | null) =>
  t.call(route.method, urlOf(route.path), { key });
const told = ({ status, json, headers }: Answer) => [
  status,
  json?.error?.code,
  headers.get('www-authenticate'),
];

beforeAll(async () => {
  const { id: organizationId } = t.alice.organization;
  admin = (await createAdminKey(t, organizationId, 'root', null)).key;
  const flip = (key: string) => key.slice(0, -1) + (key.endsWith('a') ? 'b' : 'a');
  dead.set('wrong secret', flip(t.alice.key));
  dead.set('wrong secret of an admin key', flip(admin));
  dead.set('unknown', `sk-lathe-${'0'.repeat(12)}-${'0'.repeat(43)}`);
  dead.set('admin key without its prefix', admin.replace('admin-', ''));
  dead.set('project key with the prefix', t.alice.key.replace('sk-lathe-', 'sk-lathe-admin-'));
  const revoked = await createKey(t.database, t.alice.projectId, 'revoked');
  await revokeKey(t.database, t.alice.projectId, revoked.id);
  dead.set('revoked', revoked.key);
  const past = new Date(Date.now() - 1000);
  dead.set('expired', (await createKey(t.database, t.alice.projectId, 'expired', past)).key);
  dead.set('expired admin key', (await createAdminKey(t, organizationId, 'expired', past)).key);
  const former = await createAdminKey(t, organizationId, 'former', null);
  await deleteAdminKey(t, organizationId, former.row.id);
  dead.set('revoked admin key', former.key);
  const project = await createProject(t, organizationId, 'archived');
  dead.set('of an archived project', (await createKey(t.database, project.id, 'k')).key);
  await archiveProject(t, organizationId, project.id);
});

describe('every route', () => {
  it('is refused without a key', async () => {
    for (const route of routes())
      expect([route.method, route.path, ...told(await ask(route, null))]).toEqual([
        ...[route.method, route.path, 401, null, 'Bearer'],
      ]);
  });

  it('is refused with a key that does not live, alike for all of them', async () => {
    for (const [kind, key] of dead)
      for (const route of routes()) {
        const answer = await ask(route, key);
        expect([kind, route.path, ...told(answer)]).toEqual([
          ...[kind, route.path, 401, 'invalid_api_key', 'Bearer'],
        ]);
        expect(answer.json.error.message.replace(/sk-…\w{4}/, '')).toBe(
          "Incorrect API key provided: . Send a key of this server as 'Authorization: Bearer sk-lathe-…'.",
        );
      }
  }, 60_000);

  it('is refused to a key without its scope, which is named', async () => {
    for (const scope of new Set(routes().map((route) => route.scope))) {
      if (scope === undefined) continue;
      for (const [key, what] of await keysWithout(scope)) {
        for (const route of routes().filter((each) => each.scope === scope)) {
          const answer = await ask(route, key);
          expect([what, route.method, route.path, ...told(answer)]).toEqual([
            ...[what, route.method, route.path, 403, 'insufficient_scope', null],
          ]);
          expect(answer.json.error.message).toContain(`Missing scopes: ${scope}.`);
        }
      }
    }
  }, 60_000);

  it('is open to a key with its scope alone', async () => {
    for (const scope of new Set(routes().map((route) => route.scope))) {
      const only = (PROJECT_SCOPES as readonly (string | undefined)[]).includes(scope)
        ? (await createKey(t.database, t.alice.projectId, 'only', null, { scopes: [scope!] })).key
        : admin;
      for (const route of routes().filter((each) => each.scope === scope)) {
        const answer = await ask(route, only);
        expect([route.method, route.path, answer.status]).not.toEqual([route.method, route.path, 401]);
        expect([route.path, answer.json?.error?.code]).not.toEqual([route.path, 'insufficient_scope']);
        expect(answer.status).toBeLessThan(500);
      }
    }
  }, 60_000);

  it('needs a key of the right kind: none opens both a project and its administration', () => {
    const scopes = routes().map((route) => route.scope);
    expect(scopes).toContain('api.management.write');
    expect(scopes).toContain('api.files.read');
    expect(scopes).not.toContain(undefined);
  });
});

/** Live keys of Alice's that come as close to the scope as may be without having it. */
async function keysWithout(scope: Scope): Promise<[string, string][]> {
  const keys: [string, string][] = [];
  const grant = { kind: 'project' as const, role: 'owner' as const };
  const others = PROJECT_SCOPES.filter((each) => !allows({ ...grant, scopes: [each] }, scope));
  const restricted = await createKey(t.database, t.alice.projectId, 'rest', null, { scopes: [...others] });
  keys.push([restricted.key, 'all other scopes']);
  if (!allows({ ...grant, scopes: ['api.all.read'] }, scope)) {
    const reader = await createKey(t.database, t.alice.projectId, 'reader', null, {
      scopes: ['api.all.read'],
    });
    keys.push([reader.key, 'read only']);
  }
  if (!allows({ ...grant, role: 'member', scopes: [] }, scope)) {
    const account = { name: 'member', withKey: true };
    const { key } = await createServiceAccount(t, t.alice.projectId, account);
    keys.push([key!.key, 'member']);
  }
  if (!allows({ kind: 'admin', role: 'owner', scopes: [] }, scope)) keys.push([admin, 'admin key']);
  else if (!allows({ ...grant, scopes: [] }, scope)) keys.push([t.alice.key, 'project key']);
  return keys;
}
