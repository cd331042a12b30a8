/**
 * What a schema may cost: counted while its grammar is made, so that a schema which grows as it is written out is
 * refused before it is. Knows no keywords.
 */
import type { Node } from './nodes.ts';

/** Of one schema. Properties, values and the characters of literals are OpenAI's limits. */
export const LIMITS = {
  properties: 5_000,
  values: 1_000,
  /** Characters of `const` and `enum` in all. */
  literals: 120_000,
  schemas: 5_000,
  states: 12_000,
  references: 200,
  depth: 32,
  ebnfBytes: 2_000_000,
  /** Steps of making texts deterministic and of telling alternatives apart. */
  work: 6_000_000,
};

/** Of a list with more values than `count`, as OpenAI bounds it. */
export const LONG_ENUM = { count: 250, characters: 15_000 };

/** What is left of the limits. */
export type Budget = Record<
  'properties' | 'values' | 'literals' | 'schemas' | 'states' | 'references' | 'ebnfBytes' | 'work',
  number
>;

/** Room for one schema. */
export function schemaBudget(): Budget {
  const { depth: _, ...limits } = LIMITS;
  return limits;
}

/** Budgets for schemas that come together: each has its own limits, and all together `times` of them. */
export function* sharedBudgets(times: number): Generator<Budget, never> {
  const left = schemaBudget();
  const kinds = Object.keys(left) as (keyof Budget)[];
  for (const kind of kinds) left[kind] *= times;
  for (;;) {
    const own = schemaBudget();
    for (const kind of kinds) own[kind] = Math.min(own[kind], left[kind]);
    const given = { ...own };
    yield own;
    for (const kind of kinds) left[kind] -= given[kind] - own[kind];
  }
}

const weights = new WeakMap<Node, number>();

/** About the bytes of a node written out, without those of the rules it names. Each node is looked at once. */
export function weigh(node: Node): number {
  const known = weights.get(node);
  if (known !== undefined) return known;
  const weight = 4 + ownWeight(node);
  weights.set(node, weight);
  return weight;
}

function ownWeight(node: Node): number {
  switch (node.kind) {
    case 'text':
      return node.text.length;
    case 'chars':
      return 4 * node.ranges.length;
    case 'sequence':
      return node.items.reduce((sum, item) => sum + weigh(item), 0);
    case 'choice':
      return node.options.reduce((sum, option) => sum + weigh(option), 0);
    case 'repeat':
      return weigh(node.item);
    case 'rule':
      return node.name.length;
  }
}

/** About the characters of a JSON value written out; stops counting beyond `max`. */
export function literalLength(value: unknown, max: number): number {
  let length = 0;
  const open = [value];
  while (open.length > 0 && length <= max) {
    const each = open.pop();
    length += typeof each === 'string' ? Math.max(1, each.length) : 1;
    if (Array.isArray(each)) {
      if (each.length > max) return each.length;
      for (const item of each) open.push(item);
    } else if (typeof each === 'object' && each !== null) {
      for (const [name, member] of Object.entries(each)) {
        length += name.length + 3;
        open.push(member);
      }
    }
  }
  return length;
}
