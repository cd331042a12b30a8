/**
 * Writes openapi/openapi.json from the routes, so that a change of the API is seen in the diff. With --check it only
 * compares, and fails when the file differs.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { createApp } from '../src/app.ts';
import { loadConfig } from '../src/config.ts';
import { openapiDocument } from '../src/http/docs.ts';
import { createLog } from '../src/log.ts';

export const OPENAPI_FILE = fileURLToPath(new URL('openapi.json', import.meta.url));

/** The document as text. Making it asks no database and no storage. */
export function openapiText(): string {
  const unused = (what: string) =>
    new Proxy(
      {},
      {
        get: (_, name) => {
          throw new Error(`${what}.${String(name)} is not needed to describe the API`);
        },
      },
    ) as never;
  const app = createApp({
    config: loadConfig({}),
    database: { db: null } as never,
    storage: unused('storage'),
    log: createLog({ level: 'silent' }),
  });
  return `${JSON.stringify(openapiDocument(app), null, 2)}\n`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = openapiText();
  if (!process.argv.includes('--check')) await writeFile(OPENAPI_FILE, text);
  else if ((await readFile(OPENAPI_FILE, 'utf8')) !== text) {
    console.error('openapi/openapi.json is not what the routes say. Run: npm run openapi');
    process.exitCode = 1;
  }
}
