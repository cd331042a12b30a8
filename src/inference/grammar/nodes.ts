/**
 * Context-free grammars over characters: nodes, named rules, and what can be said of them. Knows nothing of JSON or
 * schemas, nor how a grammar is written down.
 */

import { ASCII_LAST, type Ranges, UNICODE_LAST } from './ranges.ts';

export type Node =
  | { kind: 'text'; text: string }
  /** One character: of ASCII those in `ranges`, beyond ASCII any (`wide`) or none. */
  | { kind: 'chars'; ranges: Ranges; wide: boolean }
  | { kind: 'sequence'; items: readonly Node[] }
  | { kind: 'choice'; options: readonly Node[] }
  /** `max` null = without bound. */
  | { kind: 'repeat'; item: Node; min: number; max: number | null }
  | { kind: 'rule'; name: string };

export const text = (value: string): Node => ({ kind: 'text', text: value });
export const chars = (...ranges: [number, number][]): Node => ({ kind: 'chars', ranges, wide: false });
export const rule = (name: string): Node => ({ kind: 'rule', name });
export const sequence = (...items: Node[]): Node =>
  items.length === 1 ? items[0]! : { kind: 'sequence', items };
export const choice = (...options: Node[]): Node =>
  options.length === 1 ? options[0]! : { kind: 'choice', options };
export const repeat = (item: Node, min: number, max: number | null): Node =>
  min === 1 && max === 1 ? item : { kind: 'repeat', item, min, max };
export const optional = (item: Node): Node => repeat(item, 0, 1);

const LISTED_MAX = 256;
/** Nodes that one node may come to without rules; a rule that is named twice counts once. */
const EXPANSION_STEPS = 20_000;

/**
 * One character of `ranges`. The matcher's classes know ASCII and "anything beyond" only, so a few characters beyond
 * ASCII are listed one by one. Null when they are too many to list and not all.
 */
export function oneOf(ranges: Ranges): Node | null {
  const ascii: [number, number][] = [];
  const beyond: [number, number][] = [];
  for (const [low, high] of ranges) {
    if (low <= ASCII_LAST) ascii.push([low, Math.min(high, ASCII_LAST)]);
    if (high > ASCII_LAST) beyond.push([Math.max(low, ASCII_LAST + 1), high]);
  }
  const wide = beyond.some(([low, high]) => low === ASCII_LAST + 1 && high === UNICODE_LAST);
  if (wide || beyond.length === 0) return { kind: 'chars', ranges: ascii, wide };
  if (beyond.reduce((sum, [low, high]) => sum + high - low + 1, 0) > LISTED_MAX) return null;
  const listed = beyond.flatMap(([low, high]) =>
    Array.from({ length: high - low + 1 }, (_, i) => text(String.fromCodePoint(low + i))),
  );
  return choice(
    ...(ascii.length > 0 ? [{ kind: 'chars', ranges: ascii, wide: false } as const] : []),
    ...listed,
  );
}

/** The named rules of one grammar. A name is reserved before its node exists, so rules may refer to themselves. */
export class Rules {
  readonly #nodes = new Map<string, Node>();
  readonly #regular = new Map<string, Node>();
  readonly #expanding = new Set<string>();
  readonly #expanded = new Map<string, Node>();
  readonly #reserved = new Set<string>();
  #count = 0;
  #steps = 0;

  /** A new name that starts with `stem`. */
  fresh(stem: string): string {
    return `${stem}_${this.#count++}`;
  }

  has(name: string): boolean {
    return this.#nodes.has(name);
  }

  define(name: string, node: Node): Node {
    this.#reserved.delete(name);
    this.#nodes.set(name, node);
    return rule(name);
  }

  /** Takes the name before its node is known. */
  reserve(name: string): void {
    this.#reserved.add(name);
    this.#nodes.set(name, text(''));
  }

  /** How many rules there are; `forget` goes back to it. */
  get size(): number {
    return this.#nodes.size;
  }

  /** Takes back the rules that were named since there were `size`, when what needed them came to nothing. */
  forget(size: number): void {
    if (this.#nodes.size === size) return;
    for (const name of [...this.#nodes.keys()].slice(size)) {
      for (const known of [this.#nodes, this.#reserved, this.#expanded]) known.delete(name);
    }
  }

  /** Defines the rule the first time it is asked for. */
  once(name: string, make: () => Node): Node {
    if (!this.#nodes.has(name)) {
      this.reserve(name);
      this.define(name, make());
    }
    return rule(name);
  }

  /**
   * The node with the rules it refers to written out; null when that has no end or is too large, or `known` has no regular form for a
   * rule that repeats itself.
   */
  expanded(node: Node, depth = 0): Node | null {
    if (depth === 0) this.#steps = EXPANSION_STEPS;
    if (depth > 40 || --this.#steps < 0) return null;
    switch (node.kind) {
      case 'rule':
        return (
          this.#regular.get(node.name) ??
          this.#expanded.get(node.name) ??
          this.#expandedRule(node.name, depth)
        );
      case 'sequence':
      case 'choice': {
        const parts = (node.kind === 'sequence' ? node.items : node.options).map((part) =>
          this.expanded(part, depth + 1),
        );
        if (parts.some((part) => part === null)) return null;
        return node.kind === 'sequence' ? sequence(...(parts as Node[])) : choice(...(parts as Node[]));
      }
      case 'repeat': {
        const item = this.expanded(node.item, depth + 1);
        return item && repeat(item, node.min, node.max);
      }
      default:
        return node;
    }
  }

  /** Says how a rule that repeats itself reads without rules. */
  isRegular(name: string, node: Node): void {
    this.#regular.set(name, node);
  }

  #expandedRule(name: string, depth: number): Node | null {
    const node = this.#nodes.get(name);
    if (!node || this.#reserved.has(name) || this.#expanding.has(name)) return null;
    this.#expanding.add(name);
    const found = this.expanded(node, depth + 1);
    this.#expanding.delete(name);
    if (found) this.#expanded.set(name, found);
    return found;
  }

  /** Rules that no text can ever satisfy, such as an object that requires itself. */
  unproductive(): string[] {
    const productive = this.#fixpoint((node, known) => holds(node, known, isTerminal));
    return [...this.#nodes.keys()].filter((name) => !productive.has(name));
  }

  /** A rule that can reach itself without having read a character, or null. */
  leftRecursive(): string | null {
    const nullable = this.#fixpoint((node, known) =>
      holds(node, known, (leaf) => leaf.kind === 'text' && leaf.text === ''),
    );
    const state = new Map<string, 'open' | 'done'>();
    const visit = (name: string): string | null => {
      if (state.get(name) === 'done') return null;
      if (state.get(name) === 'open') return name;
      state.set(name, 'open');
      for (const next of beginnings(this.#nodes.get(name)!, nullable)) {
        const found = visit(next);
        if (found !== null) return found;
      }
      state.set(name, 'done');
      return null;
    };
    for (const name of this.#nodes.keys()) {
      const found = visit(name);
      if (found !== null) return found;
    }
    return null;
  }

  /** Every rule with its node, in the order in which they were named. */
  entries(): IterableIterator<[name: string, node: Node]> {
    return this.#nodes.entries();
  }

  #fixpoint(test: (node: Node, known: ReadonlySet<string>) => boolean): Set<string> {
    const known = new Set<string>();
    const all = [...this.#nodes];
    for (let grown = true; grown; all.reverse()) {
      // Both ways in turn: chains of rules are named from their beginning or from their end.
      grown = false;
      for (const [name, node] of all) {
        if (known.has(name) || !test(node, known)) continue;
        known.add(name);
        grown = true;
      }
    }
    return known;
  }
}

const isTerminal = (leaf: Node): boolean =>
  leaf.kind === 'text' || (leaf.kind === 'chars' && (leaf.wide || leaf.ranges.length > 0));

/** Whether `node` can be completed, given the rules that can and a test for single leaves. */
function holds(node: Node, known: ReadonlySet<string>, leaf: (node: Node) => boolean): boolean {
  switch (node.kind) {
    case 'sequence':
      return node.items.every((item) => holds(item, known, leaf));
    case 'choice':
      return node.options.some((option) => holds(option, known, leaf));
    case 'repeat':
      return node.min === 0 || holds(node.item, known, leaf);
    case 'rule':
      return known.has(node.name);
    default:
      return leaf(node);
  }
}

/** Rules that may begin at the first character of `node`. */
function beginnings(node: Node, nullable: ReadonlySet<string>): string[] {
  const empty = (item: Node) => holds(item, nullable, (leaf) => leaf.kind === 'text' && leaf.text === '');
  switch (node.kind) {
    case 'sequence': {
      const found: string[] = [];
      for (const item of node.items) {
        found.push(...beginnings(item, nullable));
        if (!empty(item)) break;
      }
      return found;
    }
    case 'choice':
      return node.options.flatMap((option) => beginnings(option, nullable));
    case 'repeat':
      return beginnings(node.item, nullable);
    case 'rule':
      return [node.name];
    default:
      return [];
  }
}
