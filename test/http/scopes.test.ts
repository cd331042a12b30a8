/** Every route has its line in the table of scopes, and the table is obeyed. */
import { describe, expect, it } from 'vitest';
import { createKey } from '../../src/domain/keys/create.ts';
import { allows, PROJECT_SCOPES, readScopes } from '../../src/domain/keys/scopes.ts';
import { OPEN_ROUTES } from '../../src/http/auth.ts';
import { openapiDocument } from '../../src/http/docs.ts';
import { ROUTE_RULES } from '../../src/http/scopes.ts';
import { useApp } from '../helpers/app.ts';

const t = useApp();

describe('the table of scopes', () => {
  it('has a line for every route that needs a key', () => {
    const routes = t.app.routes.filter((route) => route.method !== 'ALL' && !OPEN_ROUTES.has(route.path));
    expect(routes.length).toBeGreaterThan(12);
    const without = routes
      .map(({ method, path }) => `${method} ${path}`)
      .filter((route) => !(route in ROUTE_RULES));
    expect(without).toEqual([]);
  });

  it('has no line for a route that there is not', () => {
    const routes = new Set(t.app.routes.map(({ method, path }) => `${method} ${path}`));
    expect(Object.keys(ROUTE_RULES).filter((route) => !routes.has(route))).toEqual([]);
  });

  it('is written into the OpenAPI document', () => {
    const { paths } = openapiDocument(t.app);
    const job = paths['/v1/fine_tuning/jobs']!;
    expect(job.post!.description).toContain('`api.fine_tuning.jobs.write`');
    expect(job.post!.parameters).toContainEqual(
      expect.objectContaining({ name: 'Idempotency-Key', in: 'header', required: false }),
    );
    expect(job.post!.responses).toHaveProperty('409');
    expect(job.get!.description).toContain('`api.fine_tuning.jobs.read`');
    expect(job.get!.responses).not.toHaveProperty('409');
    const operations = Object.values(paths).flatMap((item) => Object.values(item as object));
    const silent = operations.filter(
      (each) => !each.security && !/scope `|Any key/.test(each.description ?? ''),
    );
    expect(silent.map((each) => each.summary)).toEqual([]);
    const [first, second] = [0, 1].map(() => JSON.stringify(openapiDocument(t.app)));
    expect(second).toBe(first); // nothing is added twice
  });

  it('refuses a route that it does not name, to every key', async () => {
    t.app.get('/v1/forgotten', (c) => c.text('open'));
    const answer = await t.call('GET', '/v1/forgotten');
    expect([answer.status, answer.json.error.code]).toEqual([403, 'insufficient_scope']);
  });
});

describe('scopes', () => {
  const member = (...scopes: string[]) => ({ kind: 'project' as const, role: 'member' as const, scopes });
  const owner = (...scopes: string[]) => ({ ...member(...scopes), role: 'owner' as const });
  const admin = { kind: 'admin' as const, role: 'owner' as const, scopes: [] };

  it('grant everything of a project when there are none, and writing includes reading', () => {
    for (const scope of PROJECT_SCOPES) expect([scope, allows(owner(), scope)]).toEqual([scope, true]);
    expect(allows(owner('api.files.write'), 'api.files.read')).toBe(true);
    expect(allows(owner('api.files.read'), 'api.files.write')).toBe(false);
    expect(allows(owner('api.files.write'), 'api.model.read')).toBe(false);
    expect(allows(owner('api.model.request'), 'api.model.read')).toBe(false);
  });

  it('of a read-only key grant every reading scope and no other', () => {
    for (const scope of PROJECT_SCOPES)
      expect([scope, allows(owner('api.all.read'), scope)]).toEqual([scope, scope.endsWith('.read')]);
  });

  it('of a member leave out what only owners may', () => {
    expect(PROJECT_SCOPES.filter((scope) => !allows(member(), scope))).toEqual([
      'api.fine_tuning.checkpoints.write',
      'api.model.write',
      'api.webhooks.write',
    ]);
    expect(allows(member('api.model.write'), 'api.model.write')).toBe(false);
  });

  it('keep admin keys and project keys apart, whatever is written on a key', () => {
    expect(allows(owner('api.management.write'), 'api.management.write')).toBe(false);
    expect(allows(owner(), 'api.management.read')).toBe(false);
    expect(allows(admin, 'api.management.write')).toBe(true);
    for (const scope of ['api.files.read', 'api.model.request', 'api.fine_tuning.jobs.read'] as const)
      expect(allows(admin, scope)).toBe(false);
  });

  it('are read in old and new spelling, and unknown ones are named', () => {
    expect(readScopes(['model.request', 'api.files.read', 'api.model.request'])).toEqual({
      scopes: ['api.files.read', 'api.model.request'],
    });
    expect(readScopes(['api.files.read', 'api.management.write'])).toEqual({
      unknown: 'api.management.write',
    });
  });
});

describe('a restricted key', () => {
  it('is told in one object what it lacks', async () => {
    const { key } = await createKey(t.database, t.alice.projectId, 'reader', null, {
      scopes: ['api.files.read'],
    });
    expect((await t.call('GET', '/v1/files', { key })).status).toBe(200);
    expect((await t.call('HEAD', '/v1/files', { key })).status).toBe(200);
    const answer = await t.call('GET', '/v1/models', { key });
    expect(answer.status).toBe(403);
    expect(answer.json.error).toEqual({
      message: expect.stringContaining('Missing scopes: api.model.read.'),
      type: 'invalid_request_error',
      param: null,
      code: 'insufficient_scope',
    });
  });
});
