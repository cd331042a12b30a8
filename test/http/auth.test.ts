import { describe, expect, it } from 'vitest';
import { createKey, revokeKey } from '../../src/domain/keys/create.ts';
import { OPEN_ROUTES } from '../../src/http/auth.ts';
import { useApp } from '../helpers/app.ts';

const t = useApp();

/** A URL for a route pattern: every parameter gets some value. */
const urlOf = (pattern: string) => pattern.replace(/:\w+(\{[^}]*\})?/g, 'some-id');

describe('auth', () => {
  it('denies every route that is not on the list, whatever it is', async () => {
    const routes = t.app.routes.filter((route) => route.method !== 'ALL');
    expect(routes.length).toBeGreaterThan(15);
    const open: string[] = [];
    for (const { method, path } of routes) {
      const answer = await t.call(method, urlOf(path), { key: null });
      if (answer.status !== 401) open.push(path);
    }
    expect(new Set(open)).toEqual(new Set(OPEN_ROUTES));
  });

  it('denies what has no route, too', async () => {
    for (const url of [
      '/',
      '/v1',
      '/v1/unknown',
      '//v1//models',
      '/v1/models/..%2ffiles',
      '/healthz/',
      '/docs/../v1/files',
    ]) {
      expect((await t.call('GET', url, { key: null })).status).toBe(401);
    }
  });

  it('gives one answer to every key that is not accepted', async () => {
    const revoked = await createKey(t.database, t.alice.projectId, 'revoked');
    await revokeKey(t.database, t.alice.projectId, revoked.id);
    const expired = await createKey(t.database, t.alice.projectId, 'expired', new Date(Date.now() - 1000));
    const wrongSecret = t.alice.key.slice(0, -1) + (t.alice.key.endsWith('a') ? 'b' : 'a');
    const headers = [
      '',
      'Bearer',
      'Bearer ',
      `Basic ${btoa(`x:${t.alice.key}`)}`,
      t.alice.key,
      `Bearer ${wrongSecret}`,
      `Bearer ${revoked.key}`,
      `Bearer ${expired.key}`,
      `Bearer sk-lathe-${'x'.repeat(600)}`,
      `Bearer ${t.alice.key}, Bearer ${t.alice.key}`,
    ];
    const absent = await t.call('GET', '/v1/models', { key: null });
    for (const authorization of headers) {
      const answer = await t.call('GET', '/v1/models', { key: null, headers: { authorization } });
      expect([authorization, answer.status, answer.text]).toEqual([authorization, 401, absent.text]);
      expect(answer.headers.get('www-authenticate')).toBe('Bearer');
    }
    expect(absent.json.error).toMatchObject({
      type: 'invalid_request_error',
      code: 'invalid_api_key',
      param: null,
    });
  });

  it('takes the scheme in any case, and spaces around the key', async () => {
    for (const authorization of [`bearer ${t.alice.key}`, `BEARER \t${t.alice.key}  `]) {
      expect((await t.call('GET', '/v1/models', { key: null, headers: { authorization } })).status).toBe(200);
    }
  });

  it('shows figures to this machine without a key, to others only with one', async () => {
    const local = await fetch((await t.serve()).replace('/v1', '/metrics'));
    expect(local.status).toBe(200);
    const proxied = await fetch((await t.serve()).replace('/v1', '/metrics'), {
      headers: { 'x-forwarded-for': '8.8.8.8' },
    });
    expect(proxied.status).toBe(401);
    expect((await t.call('GET', '/metrics', { key: null })).status).toBe(401);
    expect((await t.call('GET', '/metrics')).status).toBe(200);
  });

  it('keeps keys out of the log', () => {
    expect(t.logged.length).toBeGreaterThan(20);
    expect(t.logged.join('')).not.toContain(t.alice.key.slice(22));
  });
});
