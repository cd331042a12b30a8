/**
 * Test runner settings: one embedded Postgres for the run (started when a test first asks). Files that start processes,
 * use the addon or change their own process have one to themselves; the others share two, which load the service once.
 */
import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

/** Tests of the service called in process: each makes a database schema and a folder of its own, and nothing global. */
const SHARED = ['http', 'domain', 'contract', 'bad-input', 'queue'].map(
  (folder) => `test/${folder}/**/*.test.ts`,
);
/** Among them, but of several worker processes under load. */
const APART = ['test/http/killed-worker.test.ts'];

export default defineConfig({
  test: {
    globalSetup: ['test/helpers/postgres.ts'],
    pool: 'forks',
    execArgv: ['--import', new URL('src/fast-imports.ts', import.meta.url).href],
    // Training and the addon use every core themselves; more files at once only make each slower.
    maxWorkers: Math.max(2, Math.floor(availableParallelism() / 4)),
    testTimeout: 20_000,
    hookTimeout: 60_000,
    // A test that leaves a promise unhandled has failed, whatever it asserted.
    dangerouslyIgnoreUnhandledErrors: false,
    // The runner takes the projects by name, and in each the longest file first: the long ones are in the first.
    projects: [
      { extends: true, test: { name: 'alone', include: ['test/**/*.test.ts'], exclude: SHARED } },
      { extends: true, test: { name: 'apart', include: APART } },
      { extends: true, test: { name: 'shared', include: SHARED, exclude: APART, isolate: false } },
    ],
  },
});
