/**
 * Runs a step that may not fit into memory: in halves, down to parts of one sequence, so that only what does not fit
 * alone is refused. Knows the runner's verbs; must not know requests.
 */
import type { RunItem, Runner } from './model-runner.ts';
import type { NoSample, Sample } from './sample.ts';

export type Outcome = Sample | NoSample | 'no-memory' | null;

/** The outcome of every item; 'no-memory' for those whose tokens have not been run. `meanwhile`: see Runner. */
export function runFitting<A>(
  runner: Runner<A>,
  items: readonly RunItem<A>[],
  meanwhile?: () => void,
): Outcome[] {
  try {
    return items.length === 0 ? [] : runner.run(items, meanwhile);
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'LATHE_OUT_OF_MEMORY') throw error;
    runner.trim();
  }
  if (items.length > 1) {
    const half = items.length >> 1;
    return [...runFitting(runner, items.slice(0, half)), ...runFitting(runner, items.slice(half))];
  }
  const [item] = items;
  const half = item!.tokens.length >> 1;
  if (half === 0) return ['no-memory'];
  const [first] = runFitting(runner, [{ ...item!, tokens: item!.tokens.subarray(0, half), sampler: null }]);
  if (first === 'no-memory') return ['no-memory'];
  return runFitting(runner, [{ ...item!, tokens: item!.tokens.subarray(half), start: item!.start + half }]);
}
