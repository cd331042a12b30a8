/**
 * `anyOf`, `oneOf`, `allOf` and lists of types as grammars: which alternatives may stand side by side, and how the plain
 * texts among them are told apart.
 */
import { deterministic, TooManyStates } from './automaton.ts';
import { type Context, node, type Path, type Schema } from './json-schema.ts';
import { anyValue } from './json-text.ts';
import { LIMITS, literalLength } from './limits.ts';
import { choice, type Node, sequence, text } from './nodes.ts';
import { NothingFits, SchemaRefusal } from './refusal.ts';

/**
 * A text without nested values, written so that the matcher reads it rightly (automaton.ts).
 * @throws SchemaRefusal when that takes too many states
 */
export function exact({ rules, prefix, budget }: Context, regular: Node, path: Path): Node {
  try {
    return deterministic(rules, regular, prefix, budget);
  } catch (error) {
    if (error instanceof TooManyStates)
      throw new SchemaRefusal(path, 'schema', 'is too complex to be told apart.');
    throw error;
  }
}

/** Below this no automaton is worth its beginning. */
const WORK_LEAST = 16;

/**
 * The same, from at most `share` of the states and the work that are left: null for a lenient schema where that is not
 * enough. Giving up costs no more than half of what was left, so that what comes after has some too.
 * @throws SchemaRefusal for a schema that is not lenient, which may take everything
 */
export function exactWithin(context: Context, regular: Node, share: number, path: Path): Node | null {
  const { rules, prefix, budget, options } = context;
  if (!options.lenient) return exact(context, regular, path);
  const given = { states: Math.floor(share * budget.states), work: Math.floor(share * budget.work) };
  if (given.work < WORK_LEAST) return null;
  const left = { ...given };
  let found: Node | null = null;
  try {
    found = deterministic(rules, regular, prefix, left);
  } catch (error) {
    if (!(error instanceof TooManyStates)) throw error;
  }
  for (const kind of ['states', 'work'] as const) {
    const spent = given[kind] - Math.max(0, left[kind]);
    budget[kind] -= found ? spent : Math.min(spent, Math.floor(budget[kind] / 2));
  }
  return found;
}

/**
 * Alternatives; those that are plain texts (strings, numbers, constants) are told apart by one automaton. Lenient ones that
 * cannot be told apart may be any value.
 */
export function alternatives(context: Context, options: Node[], path: Path): Node {
  if (options.length === 1) return options[0]!;
  const plain: Node[] = [];
  const nested: Node[] = [];
  for (const option of options) {
    const regular = context.rules.expanded(option);
    if (regular) plain.push(regular);
    else nested.push(option);
  }
  if (plain.length < 2) return choice(...options);
  const apart = exactWithin(context, choice(...plain), 1, path);
  return apart ? choice(apart, ...nested) : anyValue(context.rules);
}

/** The node of a schema's `keyword`: the schemas of its list as alternatives. @throws SchemaRefusal */
export function combination(
  context: Context,
  keyword: 'anyOf' | 'oneOf' | 'allOf',
  list: unknown,
  path: Path,
): Node {
  if (!Array.isArray(list) || list.length === 0)
    throw new SchemaRefusal(path, keyword, 'must be a list of at least one schema.');
  if (keyword === 'allOf' && list.length > 1 && !context.options.lenient)
    throw new SchemaRefusal(path, 'allOf', 'with more than one schema is not supported.');
  if (keyword === 'oneOf' && !context.options.lenient && !areDisjoint(context, list, path))
    throw new SchemaRefusal(path, 'oneOf', 'is not supported where its schemas may overlap. Use anyOf.');
  const taken = keyword === 'allOf' ? list.slice(0, 1) : list;
  const arrays = taken.filter((item) => [(item as Schema | null)?.type].flat().includes('array')).length;
  if (arrays > 1 && !context.options.lenient)
    throw new SchemaRefusal(path, keyword, 'with more than one array schema is not supported.');
  return anyOfThese(
    context,
    taken.map((item, index) => [item, [...path, keyword, index]]),
    path,
  );
}

/** A schema and where it stands. */
export type Placed = readonly [schema: unknown, path: Path];

/** Schemas as alternatives. Lenient ones that no value fits are none, as long as another one remains. */
export function anyOfThese(context: Context, schemas: readonly Placed[], path: Path): Node {
  if (!context.options.lenient)
    return alternatives(
      context,
      schemas.map(([schema, at]) => node(context, schema, at)),
      path,
    );
  const options: Node[] = [];
  let refusal: NothingFits | null = null;
  for (const [schema, at] of schemas) {
    const option = unlessEmpty(context, () => node(context, schema, at));
    if (option instanceof NothingFits) refusal = option;
    else options.push(option);
  }
  if (options.length === 0 && refusal) throw refusal;
  return alternatives(context, options, path);
}

/** What is made, or why no value fits it; then nothing of it stays behind. */
export function unlessEmpty({ rules, budget }: Context, make: () => Node): Node | NothingFits {
  const [size, references] = [rules.size, budget.references];
  try {
    return make();
  } catch (error) {
    if (!(error instanceof NothingFits)) throw error;
    rules.forget(size);
    budget.references = references; // counts how deep they lead into each other, the other limits what was spent
    return error;
  }
}

/** Whether no value can fit two of the schemas: other types, or another constant under the same required property. */
function areDisjoint({ budget }: Context, list: readonly unknown[], path: Path): boolean {
  const known = list.map((item) =>
    typeof item === 'object' && item !== null ? constants(item as Schema) : new Map(),
  );
  return list.every((a, i) =>
    list.every((b, j) => {
      if (j <= i) return true;
      budget.work -= 8 + known[i]!.size;
      if (budget.work < 0) throw new SchemaRefusal(path, 'oneOf', 'has too many schemas to tell apart.');
      return differ(a, b, known[i]!, known[j]!);
    }),
  );
}

/** There are no more. */
const TYPES = 7;

type Constants = Map<string, Set<string>>;

function differ(a: unknown, b: unknown, left: Constants, right: Constants): boolean {
  const [first, second] = [a as Schema, b as Schema];
  if (!first || !second || typeof first !== 'object' || typeof second !== 'object') return false;
  const [types, others] = [[first.type].flat().slice(0, TYPES), [second.type].flat().slice(0, TYPES)];
  const numeric = (type: unknown) => (type === 'integer' ? 'number' : type);
  if (
    types[0] !== undefined &&
    others[0] !== undefined &&
    !types.some((type) => others.map(numeric).includes(numeric(type)))
  )
    return true;
  for (const [name, allowed] of left) {
    const other = right.get(name);
    if (other && ![...allowed].some((value) => other.has(value))) return true;
  }
  return false;
}

/** Required properties that must have one of a few values, as JSON texts. */
function constants(schema: Schema): Constants {
  const found: Constants = new Map();
  const required = new Set(Array.isArray(schema.required) ? schema.required : []);
  for (const [name, value] of Object.entries((schema.properties ?? {}) as Record<string, Schema>)) {
    if (!required.has(name) || typeof value !== 'object' || value === null) continue;
    const listed = 'const' in value ? [value.const] : Array.isArray(value.enum) ? value.enum : null;
    // Longer ones are refused where they stand.
    if (listed && literalLength(listed, LIMITS.literals) <= LIMITS.literals)
      found.set(name, new Set(listed.map((item) => JSON.stringify(item))));
  }
  return found;
}

/** One of several literal texts, as the tree of what they begin with in common. */
export function anyTextOf(texts: readonly string[]): Node {
  const sorted = [...new Set(texts)].toSorted().map((one) => [...one]);
  const from = (low: number, high: number, at: number): Node => {
    const [first, last] = [sorted[low]!, sorted[high - 1]!];
    let shared = at;
    while (shared < first.length && first[shared] === last[shared]) shared++;
    const lead = text(first.slice(at, shared).join(''));
    if (high - low === 1) return lead;
    const options: Node[] = [];
    let start = low;
    if (first.length === shared) {
      options.push(text(''));
      start++;
    }
    for (let end = start + 1; start < high; end++) {
      if (end < high && sorted[end]![shared] === sorted[start]![shared]) continue;
      options.push(from(start, end, shared));
      start = end;
    }
    return sequence(lead, choice(...options));
  };
  return from(0, sorted.length, 0);
}
