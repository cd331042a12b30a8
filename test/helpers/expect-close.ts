// Relative errors as assertions, and the worst of each kind for a report.
import { afterAll, expect } from 'vitest';
import { relativeError } from './tolerance.ts';

const figures = new Map<string, number>();

/** Fails, naming `what` and the figure, unless the relative error is within `tolerance`; remembers the worst by `kind`. */
export function expectClose(
  kind: string,
  what: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
): number {
  const error = relativeError(actual, expected);
  figures.set(kind, Math.max(figures.get(kind) ?? 0, error));
  expect(error, `${what}: relative error ${error.toExponential(2)} exceeds ${tolerance}`).toBeLessThanOrEqual(
    tolerance,
  );
  return error;
}

/** Call once at the top of a test file: with LATHE_FIGURES=1 the worst error of every kind is printed at its end. */
export function reportFigures(): void {
  afterAll(() => {
    if (process.env.LATHE_FIGURES === undefined) return;
    const lines = [...figures].map(([kind, error]) => `  ${error.toExponential(2)}  ${kind}`);
    process.stdout.write(`largest relative errors\n${lines.join('\n')}\n`);
  });
}
