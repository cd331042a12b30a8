/**
 * The pieces request schemas are made of, so that every refusal can be told in OpenAI's codes: bounded integers and
 * objects that name the parameter somebody probably meant. Knows no particular parameter.
 */
import { z } from 'zod';

/** Message of a bound that belongs to an integer: zod's issues do not tell integers from decimals. */
export const INTEGER_BOUND = 'integer';

/** A whole number within [min, max]; 3.0 is one, 1.5 is not. */
export const integer = (min: number, max: number) => z.int().min(min, INTEGER_BOUND).max(max, INTEGER_BOUND);

/** An object in which an unknown key is an error; the error's message is the key that was probably meant, or ''. */
export function strictObject<S extends z.ZodRawShape>(shape: S) {
  const names = Object.keys(shape);
  return z.strictObject(shape, {
    error: (issue) =>
      issue.code === 'unrecognized_keys' ? closestName(issue.keys[0] ?? '', names) : undefined,
  });
}

/** The name at most two edits (and under half of its length) away from `given`, or ''. */
function closestName(given: string, names: readonly string[]): string {
  let best = '';
  let least = 3;
  for (const name of names) {
    if (Math.abs(name.length - given.length) > 2) continue;
    const distance = editDistance(given.toLowerCase(), name.toLowerCase());
    if (distance < least && distance * 2 < name.length) {
      best = name;
      least = distance;
    }
  }
  return best;
}

/** Levenshtein's distance: insertions, deletions and replacements. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
