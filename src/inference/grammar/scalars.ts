/** `string`, `number` and `integer` of a JSON Schema as grammars. */

import { anyTextOf, exactWithin } from './alternatives.ts';
import { FORMATS } from './formats.ts';
import type { Context, Path, Schema } from './json-schema.ts';
import { anyInteger, anyNumber, anyString, stringOf } from './json-text.ts';
import { type Node, rule, sequence, text } from './nodes.ts';
import { type Bounds, decimalsWithin, integersWithin, multiplesWithin } from './numbers.ts';
import { NothingFits, SchemaRefusal } from './refusal.ts';
import { RegexRefusal, regexNode } from './regex.ts';

/** Longer strings are possible, but not countable in a grammar of reasonable size. */
const LENGTH_MAX = 2_000;
const MULTIPLES_MAX = 2_000;
const PATTERN_MAX = 1_000;
/** Of the states and the work that are left, for one pattern that need not bind. */
const PATTERN_SHARE = 1 / 4;

export function stringNode(context: Context, schema: Schema, path: Path): Node {
  const { rules, options } = context;
  const min = length(schema, 'minLength', path) ?? 0;
  const max = length(schema, 'maxLength', path);
  const expression = expressionOf(context, schema, path);
  if (expression) {
    if (max === null && min === 0) return expression;
    if (!options.lenient) {
      const keyword = max === null ? 'minLength' : 'maxLength';
      throw new SchemaRefusal(path, keyword, "beside 'pattern' or 'format' is not supported.");
    }
    return expression;
  }
  if (max !== null && max < min) throw new NothingFits(path, 'maxLength', "is less than 'minLength'.");
  const bound = Math.max(min, max ?? 0);
  if (bound > LENGTH_MAX) {
    if (options.lenient) return anyString(rules);
    throw new SchemaRefusal(
      path,
      max === null ? 'minLength' : 'maxLength',
      `must not be more than ${LENGTH_MAX}.`,
    );
  }
  return min === 0 && max === null ? anyString(rules) : stringOf(rules, min, max);
}

/** `pattern`, else `format`; a pattern that is no grammar gives way to a format beside it, which says the same. */
function expressionOf(context: Context, schema: Schema, path: Path): Node | null {
  const { pattern, format } = schema;
  const lenient = context.options.lenient ?? false;
  const known = typeof format === 'string' && Object.hasOwn(FORMATS, format) ? FORMATS[format]! : null;
  if (pattern !== undefined) {
    if (lenient && typeof pattern === 'string' && pattern.length > PATTERN_MAX) return null;
    if (typeof pattern !== 'string' || pattern.length > PATTERN_MAX)
      throw new SchemaRefusal(path, 'pattern', `must be a string of at most ${PATTERN_MAX} characters.`);
    try {
      const found = exactWithin(context, quoted(regexNode(pattern)), PATTERN_SHARE, path);
      if (found) return found;
    } catch (error) {
      if (!(error instanceof RegexRefusal)) throw error;
      if (known === null && !lenient) throw new SchemaRefusal(path, 'pattern', error.message);
    }
  }
  if (known !== null) return formatNode(context, format as string, known, path);
  if (format === undefined || lenient) return null;
  const names = Object.keys(FORMATS).join(', ');
  throw new SchemaRefusal(
    path,
    'format',
    `${JSON.stringify(format).slice(0, 80)} is not supported (supported: ${names}).`,
  );
}

/** Null when a lenient schema has nothing left for it. */
function formatNode(context: Context, format: string, expression: string, path: Path): Node | null {
  const name = `format_${format}`.replaceAll('-', '_');
  if (context.rules.has(name)) return rule(name);
  const found = exactWithin(context, quoted(regexNode(expression)), 1, path);
  return found && context.rules.define(name, found);
}

const quoted = (inner: Node): Node => sequence(text('"'), inner, text('"'));

function length(schema: Schema, keyword: string, path: Path): number | null {
  const value = schema[keyword];
  if (value === undefined) return null;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0)
    throw new SchemaRefusal(path, keyword, 'must be a whole number that is not negative.');
  return value;
}

export function numberNode(context: Context, type: 'number' | 'integer', schema: Schema, path: Path): Node {
  const { options } = context;
  if (schema.format !== undefined && !options.lenient)
    throw new SchemaRefusal(path, 'format', `of a ${type} is not supported.`);
  const bounds = boundsOf(schema, path);
  if (schema.multipleOf !== undefined && !(options.lenient && !areListed(bounds, schema.multipleOf)))
    return multiples(context, bounds, schema.multipleOf, path);
  if (bounds.min === null && bounds.max === null) return unbounded(context, type);
  const found = type === 'integer' ? integersWithin(bounds) : decimalsWithin(bounds);
  if (found) return exactWithin(context, found, 1, path) ?? unbounded(context, type);
  throw new NothingFits(
    path,
    bounds.min === null ? 'maximum' : 'minimum',
    `leaves no ${type} that can be written.`,
  );
}

function unbounded({ rules }: Context, type: 'number' | 'integer'): Node {
  return type === 'integer' ? anyInteger(rules) : anyNumber(rules);
}

function boundsOf(schema: Schema, path: Path): Bounds {
  const at = (keyword: string): number | null => {
    const value = schema[keyword];
    if (value === undefined) return null;
    if (typeof value !== 'number' || !Number.isFinite(value))
      throw new SchemaRefusal(path, keyword, 'must be a number.');
    return value;
  };
  const [min, max] = [at('minimum'), at('maximum')];
  const [above, below] = [at('exclusiveMinimum'), at('exclusiveMaximum')];
  const minExcluded = above !== null && (min === null || above >= min);
  const maxExcluded = below !== null && (max === null || below <= max);
  return { min: minExcluded ? above : min, max: maxExcluded ? below : max, minExcluded, maxExcluded };
}

/** Whether `multiples` can tell them. */
function areListed(bounds: Bounds, step: unknown): boolean {
  if (typeof step !== 'number' || !Number.isInteger(step) || step < 1) return false;
  return step === 1 || multiplesWithin(bounds, step, MULTIPLES_MAX) !== null;
}

/** Multiples are listed one by one, so they need bounds unless the step is 1. */
function multiples(context: Context, bounds: Bounds, step: unknown, path: Path): Node {
  if (typeof step !== 'number' || !Number.isInteger(step) || step < 1)
    throw new SchemaRefusal(path, 'multipleOf', 'is supported for whole numbers of at least 1 only.');
  if (step === 1) {
    const whole = integersWithin(bounds);
    if (whole) return exactWithin(context, whole, 1, path) ?? unbounded(context, 'integer');
  } else {
    const listed = multiplesWithin(bounds, step, MULTIPLES_MAX);
    if (listed === null)
      throw new SchemaRefusal(
        path,
        'multipleOf',
        `needs a minimum and a maximum with at most ${MULTIPLES_MAX} multiples between them.`,
      );
    context.budget.literals -= listed.join('').length;
    if (context.budget.literals < 0)
      throw new SchemaRefusal(path, 'multipleOf', 'allows too many values in one schema.');
    if (listed.length > 0) return anyTextOf(listed.map(String));
  }
  throw new NothingFits(path, 'multipleOf', 'leaves no value within the bounds.');
}
