/**
 * rows.json lists the rows of the bad-input catalogue: each has an entry in a file of this folder, or a test whose title
 * begins with its id.
 */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';

const read = (name: string) => readFileSync(path.join(import.meta.dirname, name), 'utf8');

function titles(): string[] {
  return readdirSync(import.meta.dirname).flatMap((name) => {
    if (name === 'rows.json') return [];
    if (name.endsWith('.json'))
      return (JSON.parse(read(name)) as { name: string }[]).map((each) => each.name);
    if (!name.endsWith('.test.ts')) return [];
    return [...read(name).matchAll(/\bit\(\s*['"]([^'"]+)/g)].map((found) => found[1]!);
  });
}

it('has an entry for every row', () => {
  const covered = new Set(titles().map((title) => title.split(' ')[0]));
  const rows = JSON.parse(read('rows.json')) as string[];
  expect(rows.length).toBeGreaterThan(90);
  expect(rows.filter((id) => !covered.has(id))).toEqual([]);
});
