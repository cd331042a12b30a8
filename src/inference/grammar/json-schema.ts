/**
 * JSON Schema → grammar: every text the grammar accepts is JSON that is valid under the schema. What cannot be
 * promised is refused by the keyword's name; with `lenient`, it is left out of the promise instead (as OpenAI treats
 * functions and formats that are not strict). Objects and arrays are in containers.ts, strings and numbers in scalars.ts.
 */
import { alternatives, anyTextOf, combination } from './alternatives.ts';
import { arrayNode, objectNode } from './containers.ts';
import { toEbnf } from './ebnf.ts';
import { anyBoolean, anyValue } from './json-text.ts';
import { bindingKeywords, isKnown, OF_TYPE } from './keywords.ts';
import { type Budget, LIMITS, LONG_ENUM, literalLength, schemaBudget, weigh } from './limits.ts';
import { mergedNode } from './merge.ts';
import { type Node, Rules, text } from './nodes.ts';
import { reference } from './references.ts';
import { NothingFits, SchemaRefusal } from './refusal.ts';
import { numberNode, stringNode } from './scalars.ts';

export type Schema = Readonly<Record<string, unknown>>;
export type Path = readonly (string | number)[];

export interface SchemaOptions {
  /** OpenAI's rules for `strict: true`: closed objects, every property required. */
  strict?: boolean;
  /** Keywords outside the subset do not bind, instead of being refused. */
  lenient?: boolean;
  /** What this and other schemas may cost together; by default a schema has limits of its own. */
  budget?: Budget;
}

/** What one compilation carries along. */
export interface Context {
  readonly rules: Rules;
  readonly root: unknown;
  readonly options: SchemaOptions;
  /** Prefix of this schema's own rules. */
  readonly prefix: string;
  /** The rules of schemas that were put together (merge.ts). */
  readonly merged: Map<Schema, string>;
  budget: Budget;
}

/**
 * The rule of `schema` among `rules`; `prefix` keeps the rules of several schemas in one grammar apart.
 * @throws SchemaRefusal
 */
export function schemaNode(rules: Rules, schema: unknown, options: SchemaOptions = {}, prefix = 's'): Node {
  const context: Context = {
    rules,
    root: schema,
    options,
    prefix,
    merged: new Map(),
    budget: options.budget ?? schemaBudget(),
  };
  return reference(context, '#', []);
}

/**
 * The grammar of one schema as EBNF, checked as a whole.
 * @throws SchemaRefusal
 */
export function schemaGrammar(schema: unknown, options: SchemaOptions = {}): string {
  const rules = new Rules();
  const budget = options.budget ?? schemaBudget();
  const ebnf = finish(rules, schemaNode(rules, schema, { ...options, budget }));
  budget.ebnfBytes -= ebnf.length;
  if (budget.ebnfBytes < 0) throw new SchemaRefusal([], 'schema', 'is too large beside the others.');
  return ebnf;
}

/** @throws SchemaRefusal when a rule can never end, begins with itself, or the whole is too large. */
export function finish(rules: Rules, root: Node): string {
  let weight = weigh(root);
  for (const [, each] of rules.entries()) weight += weigh(each);
  if (weight > LIMITS.ebnfBytes) throw new SchemaRefusal([], 'schema', 'is too large.');
  if (rules.leftRecursive() !== null)
    throw new SchemaRefusal([], '$ref', 'refers to itself without a value in between.');
  if (rules.unproductive().length > 0) {
    throw new SchemaRefusal(
      [],
      'schema',
      'allows no finite value: an object requires itself, or bounds exclude everything.',
    );
  }
  const ebnf = toEbnf(rules, root);
  if (ebnf.length > LIMITS.ebnfBytes) throw new SchemaRefusal([], 'schema', 'is too large.');
  return ebnf;
}

/** The node of a subschema. @throws SchemaRefusal, also when it would be too large to be written out */
export function node(context: Context, schema: unknown, path: Path): Node {
  const found = build(context, schema, path);
  if (weigh(found) > LIMITS.ebnfBytes) throw new SchemaRefusal(path, 'schema', 'is too large.');
  return found;
}

function build(context: Context, schema: unknown, path: Path): Node {
  if (schema === true) return anyValue(context.rules);
  if (schema === false) throw new NothingFits(path, 'false', 'allows no value.');
  if (typeof schema !== 'object' || schema === null || Array.isArray(schema))
    throw new SchemaRefusal(path, 'schema', 'must be an object or a boolean.');
  if (path.length > 2 * LIMITS.depth) throw new SchemaRefusal(path, 'schema', 'nests too deeply.');
  if (--context.budget.schemas < 0) throw new SchemaRefusal(path, 'schema', 'has too many parts.');
  const plain = schema as Schema;
  const beside = checkKeywords(context, plain, path);
  if ('$ref' in plain) return reference(context, plain.$ref, path);
  if ('const' in plain) return values(context, [plain.const], plain, path);
  if ('enum' in plain) return values(context, plain.enum, plain, path);
  for (const keyword of ['anyOf', 'oneOf', 'allOf'] as const) {
    if (!(keyword in plain)) continue;
    if (context.options.lenient) return mergedNode(context, keyword, plain, beside, path);
    return combination(context, keyword, plain[keyword], path);
  }
  return typed(context, plain, path);
}

/**
 * Refuses keywords outside the subset, and combinations that would need an intersection.
 * @returns what binds beside the keyword that leads
 */
function checkKeywords({ options }: Context, schema: Schema, path: Path): string[] {
  const found = bindingKeywords(schema);
  for (const keyword of options.lenient ? [] : Object.keys(schema)) {
    if (isKnown(keyword)) continue;
    throw new SchemaRefusal(path, keyword, 'is not supported.');
  }
  const leading = ['$ref', 'const', 'enum', 'anyOf', 'oneOf', 'allOf'].find((keyword) => keyword in schema);
  const others = found.filter((keyword) => keyword !== leading);
  if (leading === undefined || options.lenient) return others;
  const allowed = leading === 'const' || leading === 'enum' ? ['type'] : [];
  const refused = others.find((keyword) => !allowed.includes(keyword));
  if (refused === undefined) return others;
  throw new SchemaRefusal(path, refused, `beside '${leading}' is not supported.`);
}

/** `const` and `enum`, and of them only what the type beside them allows. */
function values(context: Context, list: unknown, schema: Schema, path: Path): Node {
  const keyword = 'const' in schema ? 'const' : 'enum';
  if (!Array.isArray(list) || list.length === 0)
    throw new SchemaRefusal(path, 'enum', 'must be a list of at least one value.');
  context.budget.values -= list.length;
  if (context.budget.values < 0)
    throw new SchemaRefusal(path, 'enum', `: more than ${LIMITS.values} values in one schema.`);
  const length = literalLength(list, context.budget.literals);
  context.budget.literals -= length;
  if (context.budget.literals < 0)
    throw new SchemaRefusal(path, keyword, `: more than ${LIMITS.literals} characters in one schema.`);
  if (list.length > LONG_ENUM.count && length > LONG_ENUM.characters) {
    const why = `: more than ${LONG_ENUM.characters} characters in more than ${LONG_ENUM.count} values.`;
    throw new SchemaRefusal(path, keyword, why);
  }
  const types = typesOf(schema, path);
  const allowed = list.filter((value) => types === null || types.some((type) => isOfType(value, type)));
  if (allowed.length === 0) throw new NothingFits(path, 'enum', "has no value of the schema's type.");
  return anyTextOf(allowed.map((value) => JSON.stringify(value)));
}

function isOfType(value: unknown, type: string): boolean {
  if (type === 'null') return value === null;
  if (type === 'array') return Array.isArray(value);
  if (type === 'integer') return Number.isInteger(value);
  if (type === 'object') return typeof value === 'object' && value !== null && !Array.isArray(value);
  return typeof value === type;
}

export function typesOf(schema: Schema, path: Path): string[] | null {
  if (!('type' in schema)) return null;
  const types = Array.isArray(schema.type) ? schema.type : [schema.type];
  if (types.length === 0) throw new SchemaRefusal(path, 'type', 'must not be empty.');
  if (types.length > Object.keys(OF_TYPE).length)
    throw new SchemaRefusal(path, 'type', 'names a type more than once.');
  for (const type of types) {
    if (typeof type !== 'string' || !Object.hasOwn(OF_TYPE, type))
      throw new SchemaRefusal(path, 'type', `must be one of ${Object.keys(OF_TYPE).join(', ')}.`);
  }
  return types as string[];
}

/** A schema of one or several types. Without `type`, keywords that belong to a type stand for it. */
function typed(context: Context, schema: Schema, path: Path): Node {
  let types = typesOf(schema, path);
  if (types === null) {
    const implied = ['string', 'number', 'object', 'array'].filter((type) =>
      OF_TYPE[type]!.some((keyword) => keyword in schema && keyword !== 'format'),
    );
    if (implied.length === 0) return anyValue(context.rules);
    types = implied;
  }
  return alternatives(
    context,
    types.map((type) => ofType(context, type, schema, path)),
    path,
  );
}

function ofType(context: Context, type: string, schema: Schema, path: Path): Node {
  switch (type) {
    case 'string':
      return stringNode(context, schema, path);
    case 'number':
    case 'integer':
      return numberNode(context, type, schema, path);
    case 'boolean':
      return anyBoolean;
    case 'null':
      return text('null');
    case 'array':
      return arrayNode(context, schema, path);
    default:
      return objectNode(context, schema, path);
  }
}
