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

  it('says what clients are made from: null, deep objects, chunks and what may be repeated', () => {
    const { components, paths } = JSON.parse(openapiText());
    const { schemas } = components;
    for (const name of ['CreateFineTuningJobRequest', 'FineTuningJob'])
      expect(schemas[name].properties.integrations.type).toEqual(['array', 'null']);
    const filter = paths['/v1/fine_tuning/jobs'].get.parameters.find(
      (parameter: { name: string }) => parameter.name === 'metadata',
    );
    expect(filter).toMatchObject({
      in: 'query',
      required: false,
      style: 'deepObject',
      explode: true,
      schema: { type: ['object', 'null'], additionalProperties: { type: 'string' } },
    });
    const chat = paths['/v1/chat/completions'].post.responses;
    expect(chat[200].content['text/event-stream'].schema).toEqual({
      $ref: '#/components/schemas/ChatCompletionChunk',
    });
    expect(chat).toHaveProperty('429');
    for (const [path, item] of Object.entries<object>(paths).filter(([each]) => each.startsWith('/v1/')))
      for (const [method, route] of Object.entries<{ responses: object }>(item as never))
        expect([method, path, Object.keys(route.responses)]).toEqual([
          method,
          path,
          expect.arrayContaining(['401', '500', '503']),
        ]);
  });

  it('has no reference to nowhere', () => {
    const text = openapiText();
    const { components } = JSON.parse(text);
    for (const [, name] of text.matchAll(/"#\/components\/schemas\/(\w+)"/g))
      expect(components.schemas).toHaveProperty(name ?? '');
  });
});
