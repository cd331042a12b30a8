/** Sets of code points as ranges. */

/** Inclusive code-point ranges. */
export type Ranges = readonly (readonly [low: number, high: number])[];

export const ASCII_LAST = 0x7f;
export const UNICODE_LAST = 0x10ffff;

/** The code points up to `last` that are in none of the ranges. */
export function complement(ranges: Ranges, last = UNICODE_LAST): Ranges {
  const sorted = ranges.toSorted((a, b) => a[0] - b[0]);
  const found: [number, number][] = [];
  let from = 0;
  for (const [low, high] of sorted) {
    if (low > from) found.push([from, Math.min(low - 1, last)]);
    from = Math.max(from, high + 1);
  }
  if (from <= last) found.push([from, last]);
  return found;
}

/** The code points that are in both. */
export function intersect(a: Ranges, b: Ranges): Ranges {
  const found: [number, number][] = [];
  for (const [low, high] of a) {
    for (const [from, to] of b) {
      if (Math.max(low, from) <= Math.min(high, to)) found.push([Math.max(low, from), Math.min(high, to)]);
    }
  }
  return found;
}
