/** Names of properties that are none of those a schema lists, as a grammar. */
import { PLAIN, stringRest } from './json-text.ts';
import { choice, type Node, oneOf, type Rules, rule, sequence, text } from './nodes.ts';
import type { Ranges } from './ranges.ts';

/** A string that is none of `names`: a walk along their trie that leaves it or stops between names. */
export function otherName(rules: Rules, prefix: string, names: readonly string[]): Node {
  const stem = rules.fresh(`${prefix}_name`);
  let count = 0;
  const visit = (spellings: string[][], at: number): string => {
    const id = `${stem}_${count++}`;
    const taken = new Map<string, string[][]>();
    for (const spelling of spellings) {
      const next = spelling[at];
      if (next === undefined) continue;
      const same = taken.get(next);
      if (same) same.push(spelling);
      else taken.set(next, [spelling]);
    }
    const isName = spellings.some((spelling) => spelling.length === at);
    const options: Node[] = isName ? [] : [text('"')];
    const free = without(PLAIN, [...taken.keys()]);
    // Next to a taken character beyond ASCII, no other one is offered: fewer names, all of them free.
    const other =
      oneOf(free) ??
      oneOf(free.filter(([low]) => low <= 0x7f).map(([low, high]) => [low, Math.min(high, 0x7f)]))!;
    options.push(sequence(other, stringRest(rules)));
    for (const [next, same] of taken) options.push(sequence(text(next), rule(visit(same, at + 1))));
    rules.define(id, choice(...options));
    return id;
  };
  return sequence(text('"'), rule(visit(names.map(spell), 0)));
}

/** The name character by character, as it stands in JSON. */
const spell = (name: string): string[] =>
  [...name].map((character) => JSON.stringify(character).slice(1, -1));

function without(ranges: Ranges, characters: readonly string[]): Ranges {
  const points = characters
    .filter((c) => [...c].length === 1)
    .map((c) => c.codePointAt(0)!)
    .toSorted((a, b) => a - b);
  let rest = ranges.map(([low, high]): [number, number] => [low, high]);
  for (const point of points) {
    rest = rest.flatMap(([low, high]): [number, number][] => {
      if (point < low || point > high) return [[low, high]];
      return [[low, point - 1] as [number, number], [point + 1, high] as [number, number]].filter(
        ([a, b]) => a <= b,
      );
    });
  }
  return rest;
}
