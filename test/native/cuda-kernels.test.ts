// The matrix, attention, loss and sampling kernels of native/cuda as written, run lane by lane on the CPU (test/native/
// cuda/emulation.h) on fresh random inputs against float64, with threads in rising and in falling order. This proves
// indices, masks, schedules, barriers and merges without a device; it says nothing about speed.
import { describe, expect, it } from 'vitest';
import { RUN_SEED } from '../helpers/tolerance.ts';
import { check, failed } from './check-programs.ts';

describe('CUDA kernels, emulated', () => {
  it.each([
    ['attention', 71],
    ['decode', 49],
    ['skinny', 26],
    ['sampling', 58],
  ])(
    '%s',
    async (name, lines) => {
      const results = await check(name, [{ flags: ['-O1'], sources: [`${name}_check.cc`] }], {
        seed: RUN_SEED,
      });
      expect(failed(results), `LATHE_TEST_SEED=${RUN_SEED}`).toEqual([]);
      expect(results.length).toBeGreaterThanOrEqual(lines);
    },
    120_000,
  );
});
