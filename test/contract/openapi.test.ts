import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { OPENAPI_FILE, openapiText } from '../../openapi/generate.ts';
import { useApp } from '../helpers/app.ts';

const t = useApp();

describe('the OpenAPI document', () => {
  it('is committed as the routes say (npm run openapi)', () => {
    expect(readFileSync(OPENAPI_FILE, 'utf8')).toBe(openapiText());
  });

  it('is what the service serves, in OpenAPI 3.1, with every route under /v1', async () => {
    const { json } = await t.call('GET', '/openapi.json', { key: null });
    expect(json).toEqual(JSON.parse(openapiText()));
    expect(json.openapi).toBe('3.1.0');
    const described = Object.entries<object>(json.paths).flatMap(([path, item]) =>
      Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`),
    );
    const routed = t.app.routes
      .filter((route) => route.method !== 'ALL' && /^\/v1\//.test(route.path))
      .map((route) => `${route.method} ${route.path.replace(/:(\w+)(\{[^}]*\})?/g, '{$1}')}`);
    expect(new Set(described.filter((route) => route.includes(' /v1/')))).toEqual(new Set(routed));
  });

  it('has no reference to nowhere', () => {
    const text = openapiText();
    const { components } = JSON.parse(text);
    for (const [, name] of text.matchAll(/"#\/components\/schemas\/(\w+)"/g))
      expect(components.schemas).toHaveProperty(name ?? '');
  });
});
