/**
 * /openapi.json, made from the routes, and /docs, Swagger UI served from this machine: no other host is asked.
 */
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import manifest from '../../package.json' with { type: 'json' };
import { unknownUrl } from '../errors.ts';
import type { App } from './context.ts';
import { describeAccess } from './describe-access.ts';
import { repaired } from './openapi-repairs.ts';

const TYPES: Record<string, string> = { '.js': 'text/javascript', '.css': 'text/css', '.png': 'image/png' };
const ASSETS = new Set(['swagger-ui-bundle.js', 'swagger-ui.css', 'favicon-32x32.png']);
const START = `window.onload = () => { SwaggerUIBundle({ url: '/openapi.json', dom_id: '#ui', deepLinking: true }); };`;
const PAGE = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Lathe API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css"><link rel="icon" href="/docs/favicon-32x32.png">
</head><body><div id="ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body></html>
`;
const POLICY =
  "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'";

/** Must come after every route: the document is made once, from what is registered then. */
export function docsRoutes(app: App): void {
  let document: string | null = null;
  app.get('/openapi.json', (c) => {
    document ??= JSON.stringify(openapiDocument(app));
    return c.body(document, 200, { 'content-type': 'application/json' });
  });
  app.get('/docs', (c) =>
    c.body(PAGE, 200, { 'content-type': 'text/html; charset=utf-8', 'content-security-policy': POLICY }),
  );
  app.get('/docs/:asset', async (c) => {
    const name = c.req.param('asset');
    const headers = {
      'content-type': TYPES[path.extname(name)] ?? '',
      'cache-control': 'public, max-age=3600',
    };
    if (name === 'start.js') return c.body(START, 200, headers);
    if (!ASSETS.has(name)) throw unknownUrl('GET', c.req.path.slice(0, 200));
    const folder = path.dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'));
    return c.body(new Uint8Array(await readFile(path.join(folder, name))), 200, headers);
  });
}

/** The OpenAPI 3.1 document of the routes. */
export function openapiDocument(app: App) {
  const document = app.getOpenAPI31Document({
    openapi: '3.1.0',
    info: {
      title: 'Lathe',
      version: manifest.version,
      description:
        "Fine-tuning behind OpenAI's API. Errors are OpenAI's envelope; ids, headers and pages are OpenAI's too.",
      license: { name: 'Apache-2.0', url: 'https://www.apache.org/licenses/LICENSE-2.0' },
    },
    servers: [{ url: '/' }],
    security: [{ bearer: [] }],
  });
  // A route pattern that also takes slashes reads {model{.+}}; OpenAPI knows {model}.
  const paths = Object.fromEntries(
    Object.entries(document.paths ?? {}).map(([at, item]) => [
      at.replace(/\{(\w+)\{[^}]*\}\}/g, '{$1}'),
      item,
    ]),
  );
  describeAccess(paths);
  return repaired({ ...document, paths });
}
