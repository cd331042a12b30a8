/** `$ref` of a JSON Schema: places in the same document only, each a rule of its own, so schemas may be recursive. */
import { type Context, node, type Path } from './json-schema.ts';
import { anyValue } from './json-text.ts';
import { LIMITS } from './limits.ts';
import { type Node, rule } from './nodes.ts';
import { SchemaRefusal } from './refusal.ts';

/** Local references become rules of their own, so schemas may be recursive. */
export function reference(context: Context, target: unknown, path: Path): Node {
  if (typeof target === 'string' && !target.startsWith('#') && context.options.lenient)
    return anyValue(context.rules);
  if (typeof target !== 'string' || !target.startsWith('#'))
    throw new SchemaRefusal(
      path,
      '$ref',
      'must be a local reference that starts with "#": nothing is fetched.',
    );
  const name = ruleName(context, target);
  if (context.rules.has(name)) return rule(name);
  context.rules.reserve(name);
  const schema = resolve(context, target, path);
  return context.rules.define(
    name,
    inlining(context, path, () => node(context, schema, pointer(target))),
  );
}

/** Goes on at another place in the document, which ends when references lead through too many others. */
export function inlining({ budget }: Context, path: Path, make: () => Node): Node {
  if (--budget.references < 0)
    throw new SchemaRefusal(path, '$ref', `leads through more than ${LIMITS.references} references.`);
  const found = make();
  budget.references++;
  return found;
}

function ruleName({ prefix }: Context, target: string): string {
  return `${prefix}_ref_${Buffer.from(target).toString('hex')}`;
}

/** Where in the document a reference leads. */
export function pointer(target: string): string[] {
  if (target === '#' || target === '#/') return [];
  return decodePart(target.slice(2))
    .split('/')
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
}

function decodePart(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The schema at a place in the document. @throws SchemaRefusal when there is none */
export function resolve({ root }: Context, target: string, path: Path): unknown {
  let value: unknown = root;
  if (target !== '#' && !target.startsWith('#/'))
    throw new SchemaRefusal(path, '$ref', 'must be a JSON pointer ("#/…").');
  for (const part of pointer(target)) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part))
      throw new SchemaRefusal(
        path,
        '$ref',
        `refers to ${JSON.stringify(target.slice(0, 80))}, which does not exist.`,
      );
    value = (value as Record<string, unknown>)[part];
  }
  return value;
}
