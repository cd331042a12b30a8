import { describe, expect, it } from 'vitest';
import { createApp } from '../../src/app.ts';
import { useApp } from '../helpers/app.ts';
import { adminKeyOf } from './admin-rows.ts';

const t = useApp();
const PAGE = 'https://app.example';

/** Asks as a browser does before it lets a page of `origin` send `headers`. */
const preflight = (app: typeof t.app, origin: string, headers = 'authorization,content-type') =>
  app.request('/v1/chat/completions', {
    method: 'OPTIONS',
    headers: {
      origin,
      'access-control-request-method': 'POST',
      'access-control-request-headers': headers,
    },
  });
const withOrigins = (corsOrigins: string[]) => createApp({ ...t, config: { ...t.config, corsOrigins } });
const list = (headers: Headers, name: string) => (headers.get(name) ?? '').split(',');

describe('a page of another origin', () => {
  it('is let in without a key for the preflight, with every header of the SDK', async () => {
    const { status, headers } = await preflight(t.app, PAGE);
    expect([status, headers.get('access-control-allow-origin')]).toEqual([204, '*']);
    expect(list(headers, 'access-control-allow-methods')).toEqual(
      expect.arrayContaining(['GET', 'POST', 'DELETE']),
    );
    expect(list(headers, 'access-control-allow-headers')).toEqual(
      expect.arrayContaining([
        'authorization',
        'content-type',
        'idempotency-key',
        'openai-organization',
        'openai-project',
        'x-client-request-id',
        'x-stainless-lang',
        'x-stainless-retry-count',
        'x-stainless-runtime-version',
        'x-stainless-timeout',
      ]),
    );
    expect(headers.get('access-control-allow-credentials')).toBeNull();
  });

  it('can read answers and errors, and the headers of both', async () => {
    for (const options of [{}, { key: null }]) {
      const { headers } = await t.call('GET', '/v1/models', { headers: { origin: PAGE }, ...options });
      expect(headers.get('access-control-allow-origin')).toBe('*');
      expect(list(headers, 'access-control-expose-headers')).toEqual(
        expect.arrayContaining(['x-request-id', 'retry-after', 'retry-after-ms', 'openai-processing-ms']),
      );
    }
  });

  it('sees nothing outside the API', async () => {
    const { key } = await adminKeyOf(t, t.alice);
    const { status, headers } = await t.call('GET', '/metrics', { key, headers: { origin: PAGE } });
    expect(status).toBe(200);
    expect(headers.get('access-control-allow-origin')).toBeNull();
  });

  it('must be on the list when there is one', async () => {
    const app = withOrigins([PAGE, 'http://localhost:3000']);
    const allowed = await preflight(app, 'http://localhost:3000');
    expect(allowed.headers.get('access-control-allow-origin')).toBe('http://localhost:3000');
    expect(allowed.headers.get('vary')).toContain('Origin');
    const refused = await preflight(app, 'https://evil.example');
    expect(refused.headers.get('access-control-allow-origin')).toBeNull();
  });

  it('is not let in when no origin is', async () => {
    const answer = await preflight(withOrigins([]), PAGE);
    expect([answer.status, answer.headers.get('access-control-allow-origin')]).toEqual([401, null]);
  });
});
