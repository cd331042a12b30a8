// The matrix, attention, loss and sampling kernels of native/cuda as written, run lane by lane on the CPU (test/native/
// cuda/emulation.h) on fresh random inputs against float64, with threads in rising and in falling order. This proves
// indices, masks, schedules, barriers and merges without a device; it says nothing about speed.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { RUN_SEED } from '../helpers/tolerance.ts';

const folder = mkdtempSync(join(tmpdir(), 'lathe-kernels-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const run = promisify(execFile);
const sources = join(import.meta.dirname, 'cuda');

/** Builds and runs one check program; its lines, with "FAIL" in front of what is wrong. */
async function check(name: string): Promise<string[]> {
  const program = join(folder, name);
  const flags = ['-std=c++20', '-O1', '-ffp-contract=off', '-Wno-unknown-pragmas', '-I', sources];
  await run('g++', [...flags, join(sources, `${name}_check.cc`), '-o', program]);
  const { stdout } = await run(program, [String(RUN_SEED)]).catch((error) => error as { stdout: string });
  return stdout.trim().split('\n');
}

describe('CUDA kernels, emulated', () => {
  it.each([
    ['attention', 71],
    ['decode', 49],
    ['skinny', 26],
    ['sampling', 58],
  ])(
    '%s',
    async (name, lines) => {
      const results = await check(name);
      expect(
        results.filter((line) => !line.startsWith('ok')),
        `LATHE_TEST_SEED=${RUN_SEED}`,
      ).toEqual([]);
      expect(results.length).toBeGreaterThanOrEqual(lines);
    },
    120_000,
  );
});
