/** What a training is said to need against what it takes: whole LoRA steps in fresh processes, as the device check runs them. */
import { expect, it } from 'vitest';
import { DIFFERENCE_MAX, MEMORY_SETTINGS, measure } from '../../bench/gpu-check/memory.ts';

it.each(MEMORY_SETTINGS.cpu)('$shape, r=$r, $sequences × $length tokens, again: $recompute', (setting) => {
  const { estimated, peak } = measure('cpu', setting);
  expect(Math.abs(estimated / peak - 1)).toBeLessThan(DIFFERENCE_MAX);
});
