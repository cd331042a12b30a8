/**
 * The run's Postgres (vitest globalSetup). It is started when the first test file asks for it by leaving a `wanted`
 * file, so runs without database tests do not pay for it. LATHE_TEST_DATABASE_URL names a server of your own instead.
 */
import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { TestProject } from 'vitest/node';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/embedded/postgres.ts';

declare module 'vitest' {
  interface ProvidedContext {
    postgresFolder: string;
  }
}

/** Speed over safety: these databases live as long as the run. */
const SETTINGS = { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off', max_connections: '300' };

export default function setup(project: TestProject) {
  const folder = mkdtempSync(path.join(tmpdir(), 'lathe-test-'));
  chmodSync(folder, 0o711); // under root the server runs as another account, which must be able to enter
  project.provide('postgresFolder', folder);
  let server: Promise<EmbeddedPostgres> | undefined;
  const own = process.env.LATHE_TEST_DATABASE_URL;
  if (own) writeFileSync(path.join(folder, 'url'), own);

  const timer = setInterval(() => {
    if (own || server || !existsSync(path.join(folder, 'wanted'))) return;
    server = startEmbeddedPostgres({ home: folder, settings: SETTINGS });
    server.then(
      ({ url }) => writeFileSync(path.join(folder, 'url'), url),
      (error) => writeFileSync(path.join(folder, 'failed'), String(error)),
    );
  }, 20);

  return async () => {
    clearInterval(timer);
    await server?.then(
      (running) => running.stop(),
      () => {}, // told to the tests through the `failed` file
    );
    rmSync(folder, { recursive: true, force: true });
  };
}
