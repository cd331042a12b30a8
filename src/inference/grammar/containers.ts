/**
 * `object` and `array` of a JSON Schema as grammars. Properties come in the schema's order, each at most once; further
 * properties come after them, under names that are not among them.
 */
import { type Context, node, type Path, type Schema } from './json-schema.ts';
import { anyObject, anyString, space } from './json-text.ts';
import { weigh } from './limits.ts';
import { choice, type Node, optional, repeat, rule, sequence, text } from './nodes.ts';
import { otherName } from './other-names.ts';
import { NothingFits, SchemaRefusal } from './refusal.ts';

const ITEMS_MAX = 1_000;
/** Parts of arrays up to this weight are written where they are used. */
const INLINE_WEIGHT = 200;
/** Names of further properties must differ from the listed ones; their trie grows with the names. */
const NAME_CHARACTERS_MAX = 4_000;
const NAME_CHARACTER_WORK = 64;
const NAME_MAX = 500;

interface Property {
  name: string;
  value: Node;
  required: boolean;
}

export function objectNode(context: Context, schema: Schema, path: Path): Node {
  const { rules } = context;
  const listed = (schema.properties ?? {}) as Record<string, unknown>;
  if (typeof listed !== 'object' || listed === null || Array.isArray(listed))
    throw new SchemaRefusal(path, 'properties', 'must be an object.');
  const required = requiredNames(schema, path);
  if (context.options.strict) checkStrict(schema, Object.keys(listed), required, path);
  const { lenient } = context.options;
  const further = furtherSchema(schema, Object.keys(listed).length > 0, lenient ?? false);
  const names = Object.keys(listed).filter((name) => !(lenient && listed[name] === false));
  context.budget.properties -= names.length;
  if (context.budget.properties < 0) throw new SchemaRefusal(path, 'properties', 'has too many properties.');
  const properties: Property[] = names.map((name) => ({
    name,
    value: node(context, listed[name], [...path, 'properties', name]),
    required: required.has(name),
  }));
  for (const name of required) {
    if (Object.hasOwn(listed, name)) continue;
    if (further === false)
      throw new NothingFits(
        path,
        'required',
        `names ${JSON.stringify(name.slice(0, 80))}, which additionalProperties excludes.`,
      );
    properties.push({ name, value: furtherValue(context, further, path), required: true });
  }
  if (properties.length === 0 && further === true) return anyObject(rules);
  if (properties.length === 0 && further === false) return text('{}');
  const tail = further === false ? null : furtherMembers(context, properties, further, path);
  return members(context, properties, tail);
}

function requiredNames(schema: Schema, path: Path): Set<string> {
  const { required } = schema;
  if (required === undefined) return new Set();
  if (!Array.isArray(required) || required.some((name) => typeof name !== 'string'))
    throw new SchemaRefusal(path, 'required', 'must be a list of names.');
  return new Set(required as string[]);
}

/** OpenAI's rules for strict schemas, in its words. */
function checkStrict(schema: Schema, names: string[], required: Set<string>, path: Path): void {
  if (schema.additionalProperties !== false)
    throw new SchemaRefusal(path, 'additionalProperties', 'is required to be supplied and to be false.');
  const missing = names.find((name) => !required.has(name));
  if (missing === undefined) return;
  const why = `is required to be supplied and to be an array including every key in properties. Missing ${JSON.stringify(missing.slice(0, 80))}.`;
  throw new SchemaRefusal(path, 'required', why);
}

/**
 * Unsaid, an object with listed properties is closed: fewer texts than the schema allows, but the ones that are meant.
 */
function furtherSchema(schema: Schema, listed: boolean, lenient: boolean): unknown {
  const { additionalProperties } = schema;
  if (lenient && 'patternProperties' in schema) return true; // some names are allowed, and which is not told
  return additionalProperties === undefined ? !listed : additionalProperties;
}

function furtherValue(context: Context, further: unknown, path: Path): Node {
  return node(context, further, [...path, 'additionalProperties']);
}

/** `"name": value` for any name but the listed ones, any number of times. */
function furtherMembers(
  context: Context,
  properties: readonly Property[],
  further: unknown,
  path: Path,
): Node {
  const { rules, prefix } = context;
  const names = properties.map(({ name }) => name);
  const characters = names.join('').length;
  context.budget.work -= NAME_CHARACTER_WORK * characters;
  const long = names.some((name) => name.length > NAME_MAX);
  if (long || characters > NAME_CHARACTERS_MAX || context.budget.work < 0)
    throw new SchemaRefusal(
      path,
      'additionalProperties',
      'beside so many or such long names is not supported.',
    );
  const key = names.length === 0 ? anyString(rules) : otherName(rules, prefix, names);
  const member = sequence(key, text(':'), space(rules), furtherValue(context, further, path));
  return rules.define(rules.fresh(`${prefix}_more`), member);
}

/** `{` members `}`: rule i writes what may follow the first i properties, with or without a comma before it. */
function members({ rules, prefix }: Context, properties: readonly Property[], further: Node | null): Node {
  const comma = sequence(text(','), space(rules));
  const more = further && rule(further.kind === 'rule' ? further.name : '');
  const stem = rules.fresh(`${prefix}_members`);
  const name = (index: number, first: boolean) => `${stem}_${first ? 'a' : 'b'}${index}`;
  for (let index = properties.length; index >= 0; index--) {
    for (const first of [true, false]) {
      const property = properties[index];
      const lead = first ? text('') : comma;
      if (!property) {
        const rest = more && sequence(more, repeat(sequence(comma, more), 0, null), space(rules));
        const end = first ? text('') : space(rules);
        rules.define(name(index, first), rest ? choice(end, sequence(lead, rest)) : end);
        continue;
      }
      const written = sequence(
        lead,
        text(`${JSON.stringify(property.name)}:`),
        space(rules),
        property.value,
        rule(name(index + 1, false)),
      );
      rules.define(
        name(index, first),
        property.required ? written : choice(written, rule(name(index + 1, first))),
      );
    }
  }
  return sequence(text('{'), space(rules), rule(name(0, true)), text('}'));
}

export function arrayNode(context: Context, schema: Schema, path: Path): Node {
  const { rules, options } = context;
  const asked = count(schema, 'minItems', path) ?? 0;
  const min = asked > ITEMS_MAX && options.lenient ? 0 : asked;
  const given = count(schema, 'maxItems', path);
  const max = given !== null && given > ITEMS_MAX && options.lenient ? null : given;
  if (max !== null && max < min) throw new NothingFits(path, 'maxItems', "is less than 'minItems'.");
  if (Math.max(min, max ?? 0) > ITEMS_MAX)
    throw new SchemaRefusal(
      path,
      max === null ? 'minItems' : 'maxItems',
      `must not be more than ${ITEMS_MAX}.`,
    );
  const fixed = fixedItems(context, schema, path);
  const items = Array.isArray(schema.items) ? true : (schema.items ?? true); // a list: see fixedItems
  const open = items !== false && (max === null || max > fixed.length);
  const item = open ? named(context, node(context, items, [...path, 'items'])) : null;
  if (item === null && fixed.length < min)
    throw new NothingFits(path, 'minItems', 'asks for more items than the others allow.');
  const taken = max === null ? fixed : fixed.slice(0, max);
  return sequence(text('['), space(rules), elements(context, taken, item, min, max), text(']'));
}

/** As a rule when it is large: an item is written twice, and arrays of arrays would double with every level. */
function named({ rules, prefix }: Context, item: Node): Node {
  return weigh(item) > INLINE_WEIGHT ? rules.define(rules.fresh(`${prefix}_item`), item) : item;
}

function fixedItems(context: Context, schema: Schema, path: Path): Node[] {
  const { items } = schema;
  const prefixItems =
    schema.prefixItems ?? (context.options.lenient && Array.isArray(items) ? items : undefined);
  if (prefixItems === undefined) {
    if (!Array.isArray(schema.items)) return [];
    throw new SchemaRefusal(path, 'items', "must be one schema; tuples are 'prefixItems'.");
  }
  if (!Array.isArray(prefixItems)) throw new SchemaRefusal(path, 'prefixItems', 'must be a list of schemas.');
  return prefixItems.map((item, index) => node(context, item, [...path, 'prefixItems', index]));
}

/** Items from the first on: fixed ones may be left out from the end as long as `min` remain. */
function elements(
  context: Context,
  fixed: readonly Node[],
  item: Node | null,
  min: number,
  max: number | null,
): Node {
  const { rules } = context;
  const comma = sequence(text(','), space(rules));
  const [least, most] = [Math.max(0, min - fixed.length), max === null ? null : max - fixed.length];
  if (fixed.length === 0) {
    if (item === null || most === 0) return text('');
    const some = sequence(
      item,
      repeat(sequence(comma, item), Math.max(0, least - 1), most === null ? null : most - 1),
      space(rules),
    );
    return least === 0 ? optional(some) : some;
  }
  let rest: Node = item === null || most === 0 ? text('') : repeat(sequence(comma, item), least, most);
  for (let index = fixed.length - 1; index > 0; index--) {
    const more = sequence(comma, fixed[index]!, rest);
    rest = named(context, index >= min ? optional(more) : more);
  }
  const all = sequence(fixed[0]!, rest, space(rules));
  return min === 0 ? optional(all) : all;
}

function count(schema: Schema, keyword: string, path: Path): number | null {
  const value = schema[keyword];
  if (value === undefined) return null;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0)
    throw new SchemaRefusal(path, keyword, 'must be a whole number that is not negative.');
  return value;
}
