/**
 * What the generator of the OpenAPI document says wrongly, said rightly: objects that may be null, objects made from
 * others, and patterns with flags. Knows JSON Schema, and no route.
 */

type Node = Record<string, unknown>;

const isNode = (value: unknown): value is Node =>
  value !== null && typeof value === 'object' && !Array.isArray(value);

/** A copy of `document` with its schemas repaired. */
export function repaired<T extends object>(document: T): T {
  const schemas = ((document as { components?: { schemas?: Record<string, Node> } }).components?.schemas ??
    {}) as Record<string, Node>;
  return repair(document, schemas) as T;
}

function repair(value: unknown, schemas: Record<string, Node>): unknown {
  if (Array.isArray(value)) return value.map((each) => repair(each, schemas));
  if (!isNode(value)) return value;
  const node = Object.fromEntries(Object.entries(value).map(([key, each]) => [key, repair(each, schemas)]));
  // Written as a regular expression's text from its second character on.
  if (typeof node.pattern === 'string') node.pattern = node.pattern.replace(/\/[a-z]+$/, '');
  return Array.isArray(node.allOf) ? repairAllOf(node, node.allOf.filter(isNode), schemas) : node;
}

/** `allOf` of a named object and a change to it: both must hold, which is not what was meant. */
function repairAllOf(node: Node, parts: Node[], schemas: Record<string, Node>): Node {
  const [named, change] = parts;
  const { allOf: _, ...rest } = node;
  if (parts.length !== 2 || typeof named?.$ref !== 'string' || !change) return node;
  const types = change.type;
  if (Array.isArray(types) && types.includes('null') && change.properties === undefined) {
    const { type: __, ...notes } = change;
    return { ...rest, ...notes, anyOf: [{ $ref: named.$ref }, { type: 'null' }] };
  }
  const base = schemas[named.$ref.split('/').at(-1) ?? ''];
  if (base?.additionalProperties !== false || change.properties === undefined) return node;
  const required = [...((base.required as string[]) ?? []), ...((change.required as string[]) ?? [])];
  const whole = repair(base, schemas) as Node;
  return {
    ...whole,
    ...rest,
    ...change,
    properties: { ...(whole.properties as Node), ...(change.properties as Node) },
    ...(required.length > 0 ? { required: [...new Set(required)] } : {}),
  };
}
