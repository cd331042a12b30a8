/**
 * Schemas that hold together, as one: `allOf`, and keywords beside `anyOf` or `oneOf`. Exact for objects with different
 * properties; where two say something of the same property or keyword, the later one counts. For lenient schemas only.
 */
import { anyOfThese, combination, type Placed, unlessEmpty } from './alternatives.ts';
import { type Context, node, type Path, type Schema } from './json-schema.ts';
import { bindingKeywords } from './keywords.ts';
import { type Node, rule } from './nodes.ts';
import { inlining, pointer, resolve } from './references.ts';
import { NothingFits } from './refusal.ts';

/**
 * The node of a schema with a list under `keyword`: each schema of the list together with what stands beside it, and those
 * of `allOf` as a single one, or the first of them where no value fits all. Schemas that are put together become a rule, as references do, so they may be recursive.
 * @param beside the other keywords that bind @throws SchemaRefusal
 */
export function mergedNode(
  context: Context,
  keyword: 'anyOf' | 'oneOf' | 'allOf',
  schema: Schema,
  beside: readonly string[],
  path: Path,
): Node {
  const { rules, merged } = context;
  const list = schema[keyword];
  if (!Array.isArray(list)) return combination(context, keyword, list, path);
  const all = list.map((item, index): Placed => [item, [...path, keyword, index]]);
  const placed = keyword === 'allOf' ? all.filter(([item]) => binds(item)) : all;
  if (beside.length === 0 && keyword === 'allOf' && placed.length === 1) return node(context, ...placed[0]!);
  if (beside.length === 0 && (keyword !== 'allOf' || placed.length === 0))
    return combination(context, keyword, list, path);
  const known = merged.get(schema);
  if (known !== undefined && rules.has(known)) return rule(known);
  const name = rules.fresh(`${context.prefix}_merged`);
  merged.set(schema, name);
  rules.reserve(name);
  const rest: Schema = Object.fromEntries(beside.map((each) => [each, schema[each]]));
  const options = together(context, keyword, rest, placed, path);
  const whole = unlessEmpty(context, () => inlining(context, path, () => anyOfThese(context, options, path)));
  if (!(whole instanceof NothingFits)) return rules.define(name, whole);
  const [first] = placed;
  if (keyword !== 'allOf' || !first) throw whole;
  return rules.define(name, node(context, ...first));
}

/** Every alternative with `rest`; for `allOf` the only one there is. */
function together(
  context: Context,
  keyword: string,
  rest: Schema,
  placed: readonly Placed[],
  path: Path,
): Placed[] {
  const resolved = placed.map((each) => target(context, each));
  if (keyword !== 'allOf') return resolved.map(([item, at]) => [both(rest, item), at]);
  const one = resolved.map(([item]) => item).reduce(both, rest);
  return [[one, resolved[0]?.[1] ?? path]];
}

/** Whether a schema says anything that the grammar keeps. */
function binds(schema: unknown): boolean {
  if (!isObject(schema)) return schema !== true;
  return bindingKeywords(schema).length > 0 || 'patternProperties' in schema;
}

/** What a reference names, one step far, and where that stands; anything else as it is. */
function target(context: Context, [schema, path]: Placed): Placed {
  const to = isObject(schema) ? schema.$ref : undefined;
  if (typeof to !== 'string' || !to.startsWith('#')) return [schema, path];
  return [resolve(context, to, path), pointer(to)];
}

function both(a: unknown, b: unknown): unknown {
  if (a === false || b === false) return false;
  if (!isObject(a)) return b;
  if (!isObject(b)) return a;
  const one: Record<string, unknown> = { ...a, ...b };
  if (isObject(a.properties) && isObject(b.properties)) one.properties = { ...a.properties, ...b.properties };
  if (Array.isArray(a.required) && Array.isArray(b.required))
    one.required = [...new Set([...a.required, ...b.required])];
  return one;
}

function isObject(value: unknown): value is Schema {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
