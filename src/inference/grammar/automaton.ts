/**
 * Regular parts of a grammar made deterministic: of the texts that go on, no two alternatives begin alike. The matcher
 * accepts texts that a grammar does not allow where alternatives share a beginning ("aaa" | "a"), so whatever may, goes
 * through here. Classic: Thompson's automaton, then the subset construction.
 */
import { choice, type Node, type Rules, repeat, rule, sequence, text } from './nodes.ts';

export class TooManyStates extends Error {}

/** How many more deterministic states a grammar may have, and steps to find them. */
export interface StateBudget {
  states: number;
  work: number;
}

const LOOSE_STATES_MAX = 16_000;
/** States written inside each other at most; deeper ones become rules. */
const INLINE_MAX = 40;
const ASCII = 128;

/** Transitions of one state of the non-deterministic automaton; equal keys accept the same symbols. */
interface Loose {
  empty: number[];
  on: { key: string; accepts: (symbol: number) => boolean; to: number }[];
}

/** Symbols: ASCII characters by themselves, each other character that the node names, and one for all the rest. */
const OTHER = -1;

/** A state of the deterministic automaton: which symbols lead where. */
interface Strict {
  accepting: boolean;
  exits: Map<number, number[]>;
}

/**
 * The same texts as `node`, which must not refer to rules, as rules that are deterministic.
 * @throws TooManyStates
 */
export function deterministic(rules: Rules, node: Node, prefix: string, budget: StateBudget): Node {
  const states: Loose[] = [{ empty: [], on: [] }];
  const named = new Set<number>();
  const end = build(states, node, 0, named);
  const strict = determine(states, end, named, budget);
  return write(rules, strict, prefix);
}

/** Adds `node` after state `from`; the state after it. */
function build(states: Loose[], node: Node, from: number, named: Set<number>): number {
  const add = (): number => {
    if (states.length >= LOOSE_STATES_MAX) throw new TooManyStates();
    return states.push({ empty: [], on: [] }) - 1;
  };
  const after = (at: number, key: string, accepts: (symbol: number) => boolean): number => {
    const to = add();
    states[at]!.on.push({ key, accepts, to });
    return to;
  };
  switch (node.kind) {
    case 'text': {
      let at = from;
      for (const character of node.text) {
        const point = character.codePointAt(0)!;
        if (point >= ASCII) named.add(point);
        at = after(at, String(point), (symbol) => symbol === point);
      }
      return at;
    }
    case 'chars': {
      const { ranges, wide } = node;
      return after(from, `${ranges.join(' ')} ${wide}`, (symbol) =>
        symbol === OTHER || symbol >= ASCII
          ? wide
          : ranges.some(([low, high]) => low <= symbol && symbol <= high),
      );
    }
    case 'sequence':
      return node.items.reduce((at, item) => build(states, item, at, named), from);
    case 'choice': {
      const to = add();
      for (const option of node.options) {
        const start = add();
        states[from]!.empty.push(start);
        states[build(states, option, start, named)]!.empty.push(to);
      }
      return to;
    }
    case 'repeat': {
      let at = from;
      for (let i = 0; i < node.min; i++) at = build(states, node.item, at, named);
      const to = add();
      if (node.max === null) {
        const loop = add();
        states[at]!.empty.push(loop);
        states[build(states, node.item, loop, named)]!.empty.push(loop);
        states[loop]!.empty.push(to);
        return to;
      }
      for (let i = node.min; i < node.max; i++) {
        states[at]!.empty.push(to);
        at = build(states, node.item, at, named);
      }
      states[at]!.empty.push(to);
      return to;
    }
    case 'rule':
      throw new Error(`the rule ${node.name} is no part of a regular expression`);
  }
}

function determine(states: Loose[], end: number, named: ReadonlySet<number>, budget: StateBudget): Strict[] {
  const spend = (steps: number): void => {
    budget.work -= steps;
    if (budget.work < 0) throw new TooManyStates();
  };
  spend(8 * states.length);
  const classes = symbolClasses(states, named, spend);
  const strict: Strict[] = [];
  const known = new Map<string, number>();
  const sets: number[][] = [];
  const enter = (set: number[]): number => {
    const key = set.join(',');
    const found = known.get(key);
    if (found !== undefined) return found;
    if (--budget.states < 0) throw new TooManyStates();
    known.set(key, sets.length);
    strict.push({ accepting: set.includes(end), exits: new Map() });
    return sets.push(set) - 1;
  };
  enter(closure(states, [0]));
  for (let i = 0; i < sets.length; i++) {
    const moves = sets[i]!.flatMap((state) => states[state]!.on);
    spend(moves.length * classes.length);
    for (const symbols of classes) {
      const reached = moves.filter(({ accepts }) => accepts(symbols[0]!)).map(({ to }) => to);
      if (reached.length === 0) continue;
      const set = closure(states, reached);
      spend(8 * set.length);
      const target = enter(set);
      const { exits } = strict[i]!;
      exits.set(
        target,
        [...(exits.get(target) ?? []), ...symbols].toSorted((a, b) => a - b),
      );
    }
  }
  return strict;
}

/** Symbols that no transition tells apart, together. */
function symbolClasses(
  states: Loose[],
  named: ReadonlySet<number>,
  spend: (steps: number) => void,
): number[][] {
  const tests = new Map(states.flatMap(({ on }) => on.map(({ key, accepts }) => [key, accepts] as const)));
  const classes = new Map<string, number[]>();
  spend(tests.size * (ASCII + named.size));
  for (const symbol of [...Array.from({ length: ASCII }, (_, i) => i), ...named, OTHER]) {
    let signature = '';
    for (const accepts of tests.values()) signature += accepts(symbol) ? '1' : '0';
    classes.set(signature, [...(classes.get(signature) ?? []), symbol]);
  }
  return [...classes.values()];
}

/** The states that are reached without reading, in order. */
function closure(states: Loose[], from: number[]): number[] {
  const found = new Set(from);
  for (const state of found) for (const next of states[state]!.empty) found.add(next);
  return [...found].toSorted((a, b) => a - b);
}

/** States that several others lead to become rules; the rest is written where it is used. */
function write(rules: Rules, states: Strict[], prefix: string): Node {
  const useful = usefulStates(states);
  const stem = rules.fresh(`${prefix}_state`);
  const arrivals = new Array<number>(states.length).fill(0);
  for (const [i, { exits }] of states.entries()) {
    for (const target of exits.keys()) if (target !== i && useful.has(target)) arrivals[target]!++;
  }
  const levels = levelsOf(states, arrivals);
  const isRule = (state: number) => levels[state] === 0;
  const body = (state: number): Node => {
    const { accepting, exits } = states[state]!;
    const options: Node[] = accepting ? [text('')] : [];
    let loop: Node | null = null;
    for (const [target, symbols] of exits) {
      if (target === state) loop = oneOfSymbols(symbols);
      else if (useful.has(target)) {
        const rest = isRule(target) ? rule(`${stem}_${target}`) : body(target);
        options.push(sequence(oneOfSymbols(symbols), ...(rest.kind === 'sequence' ? rest.items : [rest])));
      }
    }
    const onward = options.length === 0 ? text('') : choice(...options);
    return loop ? sequence(repeat(loop, 0, null), onward) : onward;
  };
  for (const state of states.keys()) {
    if (useful.has(state) && isRule(state)) rules.define(`${stem}_${state}`, body(state));
  }
  return rule(`${stem}_0`);
}

/** How deep each state is written inside another's rule; 0 = it is a rule. A state comes after the one it is in. */
function levelsOf(states: Strict[], arrivals: readonly number[]): number[] {
  const levels = new Array<number>(states.length).fill(0);
  for (const [i, { exits }] of states.entries()) {
    for (const target of exits.keys()) {
      if (target > i && arrivals[target] === 1) levels[target] = (levels[i]! + 1) % INLINE_MAX;
    }
  }
  return levels;
}

/** States from which the end can be reached. */
function usefulStates(states: Strict[]): Set<number> {
  const useful = new Set<number>();
  for (let grown = true; grown; ) {
    grown = false;
    for (let i = states.length - 1; i >= 0; i--) {
      const { accepting, exits } = states[i]!;
      if (useful.has(i) || !(accepting || [...exits.keys()].some((target) => useful.has(target)))) continue;
      useful.add(i);
      grown = true;
    }
  }
  return useful;
}

function oneOfSymbols(symbols: readonly number[]): Node {
  const ranges: [number, number][] = [];
  const listed: Node[] = [];
  const wide = symbols.includes(OTHER);
  for (const symbol of symbols) {
    const last = ranges.at(-1);
    if (symbol === OTHER) continue;
    if (symbol >= ASCII) {
      if (!wide) listed.push(text(String.fromCodePoint(symbol)));
    } else if (last && last[1] === symbol - 1) last[1] = symbol;
    else ranges.push([symbol, symbol]);
  }
  if (wide || ranges.length > 0) listed.unshift(classOf(ranges, wide));
  return choice(...listed);
}

function classOf(ranges: [number, number][], wide: boolean): Node {
  const [only] = ranges;
  if (!wide && ranges.length === 1 && only![0] === only![1]) return text(String.fromCodePoint(only![0]));
  return { kind: 'chars', ranges, wide };
}
