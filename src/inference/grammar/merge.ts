/**
 * Schemas that hold together, as one: `allOf`, and keywords beside `anyOf` or `oneOf`. Exact for objects with different
 * properties; where two say something of the same property or keyword, the later one counts. For lenient schemas only.
 */
import type { Context, Path, Schema } from './json-schema.ts';
import { resolve } from './references.ts';

/**
 * The schemas under `keyword`, each together with what stands beside it; `allOf` becomes a single one. Null when there is
 * nothing to put together. @throws SchemaRefusal for a reference to nowhere
 */
export function merged(
  context: Context,
  keyword: 'anyOf' | 'oneOf' | 'allOf',
  schema: Schema,
  beside: readonly string[],
  path: Path,
): unknown[] | null {
  const list = schema[keyword];
  if (!Array.isArray(list) || (beside.length === 0 && (keyword !== 'allOf' || list.length < 2))) return null;
  const rest: Schema = Object.fromEntries(beside.map((name) => [name, schema[name]]));
  const each = list.map((item) => resolved(context, item, path));
  if (keyword === 'allOf') return [each.reduce(together, rest)];
  return each.map((item) => together(rest, item));
}

/** What a reference names, one step far; anything else as it is. */
function resolved(context: Context, schema: unknown, path: Path): unknown {
  const target = isObject(schema) ? schema.$ref : undefined;
  return typeof target === 'string' && target.startsWith('#') ? resolve(context, target, path) : schema;
}

function together(a: unknown, b: unknown): unknown {
  if (a === false || b === false) return false;
  if (!isObject(a)) return b;
  if (!isObject(b)) return a;
  const both: Record<string, unknown> = { ...a, ...b };
  if (isObject(a.properties) && isObject(b.properties))
    both.properties = { ...a.properties, ...b.properties };
  if (Array.isArray(a.required) && Array.isArray(b.required))
    both.required = [...new Set([...a.required, ...b.required])];
  return both;
}

function isObject(value: unknown): value is Schema {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
