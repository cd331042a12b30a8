/** Test runner settings: one embedded Postgres for the run (started when a test first asks), one process per test file. */
import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/helpers/postgres.ts'],
    pool: 'forks',
    execArgv: ['--import', new URL('src/fast-imports.ts', import.meta.url).href],
    // Training and the addon use every core themselves; more files at once only make each slower.
    maxWorkers: Math.max(2, Math.floor(availableParallelism() / 4)),
    testTimeout: 20_000,
    hookTimeout: 60_000,
    // A test that leaves a promise unhandled has failed, whatever it asserted.
    dangerouslyIgnoreUnhandledErrors: false,
  },
});
