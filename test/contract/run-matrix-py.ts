/**
 * Runs matrix.py against a service of its own: `node scripts/setup.mjs test/contract/run-matrix-py.ts [python]`. The
 * Python needs the openai package. Exits with the script's code.
 */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { startMatrix, stopMatrix } from './matrix/harness.ts';

const python = process.argv[2] ?? 'python3';
const matrix = await startMatrix();
const { status } = spawnSync(python, [path.join(import.meta.dirname, 'matrix.py')], {
  stdio: 'inherit',
  env: { ...process.env, LATHE_URL: matrix.url, LATHE_KEY: matrix.key, LATHE_ADMIN_KEY: matrix.adminKey },
});
await stopMatrix();
process.exit(status ?? 1);
