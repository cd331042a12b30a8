import { describe, expect, it } from 'vitest';
import { createKey, revokeKey } from '../../src/domain/keys/create.ts';
import { OPEN_ROUTES } from '../../src/http/auth.ts';
import { useApp } from '../helpers/app.ts';
import { adminKeyOf } from './admin-rows.ts';

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

  it('says that there is no key to whoever sends none', async () => {
    const absent = await t.call('GET', '/v1/models', { key: null });
    expect(absent.status).toBe(401);
    expect(absent.headers.get('www-authenticate')).toBe('Bearer');
    expect(absent.json.error).toEqual({
      message: expect.stringMatching(/^You didn't provide an API key\./),
      type: 'invalid_request_error',
      param: null,
      code: null,
    });
    for (const authorization of ['', 'Bearer', 'Bearer ', `Basic ${btoa(`x:${t.alice.key}`)}`, t.alice.key]) {
      const answer = await t.call('GET', '/v1/models', { key: null, headers: { authorization } });
      expect([authorization, answer.status, answer.text]).toEqual([authorization, 401, absent.text]);
    }
  });

  it('gives one answer to every key that is not accepted', async () => {
    const revoked = await createKey(t.database, t.alice.projectId, 'revoked');
    await revokeKey(t.database, t.alice.projectId, revoked.id);
    const expired = await createKey(t.database, t.alice.projectId, 'expired', new Date(Date.now() - 1000));
    const wrongSecret = t.alice.key.slice(0, -1) + (t.alice.key.endsWith('a') ? 'b' : 'a');
    const keys = [
      wrongSecret,
      revoked.key,
      expired.key,
      `sk-lathe-${'x'.repeat(600)}`,
      `${t.alice.key}, Bearer ${t.alice.key}`,
      '0123456789abcdef',
    ];
    for (const key of keys) {
      const answer = await t.call('GET', '/v1/models', { key });
      expect([key, answer.status, answer.headers.get('www-authenticate')]).toEqual([key, 401, 'Bearer']);
      expect(answer.json.error).toEqual({
        message: `Incorrect API key provided: ${key.slice(0, 3)}…${key.slice(-4)}. Send a key of this server as 'Authorization: Bearer sk-lathe-…'.`,
        type: 'invalid_request_error',
        param: null,
        code: 'invalid_api_key',
      });
    }
  });

  it('shows nothing of a short key', async () => {
    for (const key of ['x', 'hunter2', 'zq9-fifteen-cha']) {
      const { json } = await t.call('GET', '/v1/models', { key });
      expect(json.error.code).toBe('invalid_api_key');
      expect(json.error.message).toMatch(/^Incorrect API key provided\. Send/);
    }
  });

  it('takes the scheme in any case, and spaces around the key', async () => {
    for (const authorization of [`bearer ${t.alice.key}`, `BEARER \t${t.alice.key}  `]) {
      expect((await t.call('GET', '/v1/models', { key: null, headers: { authorization } })).status).toBe(200);
    }
  });

  it('shows figures to this machine without a key, to others only with an admin key', async () => {
    const local = await fetch((await t.serve()).replace('/v1', '/metrics'));
    expect(local.status).toBe(200);
    const proxied = await fetch((await t.serve()).replace('/v1', '/metrics'), {
      headers: { 'x-forwarded-for': '8.8.8.8' },
    });
    expect(proxied.status).toBe(401);
    expect((await t.call('GET', '/metrics', { key: null })).status).toBe(401);
    expect((await t.call('GET', '/metrics')).status).toBe(403); // they are about every project
    const { key } = await adminKeyOf(t, t.alice);
    expect((await t.call('GET', '/metrics', { key })).status).toBe(200);
  });

  it('keeps keys out of the log', () => {
    expect(t.logged.length).toBeGreaterThan(20);
    expect(t.logged.join('')).not.toContain(t.alice.key.slice(22));
  });
});
