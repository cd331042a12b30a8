/**
 * Requests made from the OpenAPI document with a seed: mostly what a schema asks for, then bent in one or two places.
 * Knows the document and ids that exist; what must hold of the answers is in properties.test.ts.
 */

export type Schema = {
  $ref?: string;
  type?: string | string[];
  enum?: unknown[];
  const?: unknown;
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: boolean | Schema;
  items?: Schema | false;
  prefixItems?: Schema[];
  minItems?: number;
  maxItems?: number;
  minLength?: number;
  maxLength?: number;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  format?: string;
};

interface Parameter {
  name: string;
  in: 'path' | 'query' | 'header';
  required?: boolean;
  schema: Schema;
}

export interface Operation {
  parameters?: Parameter[];
  requestBody?: { content: Record<string, { schema: Schema }> };
  responses: Record<string, { content?: Record<string, { schema: Schema }> }>;
}

export interface OpenApi {
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Schema> };
}

export interface GeneratedRequest {
  method: string;
  /** Template of the document ("/v1/files/{file_id}"). */
  path: string;
  url: string;
  operation: Operation;
  json?: unknown;
  form?: FormData;
}

/** Numbers in [0, 1) from a seed (mulberry32). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

const WILD: unknown[] = [
  null,
  true,
  0,
  -1,
  1.5,
  1e308,
  -(2 ** 53),
  2_147_483_648,
  '',
  ' ',
  'auto',
  'null',
  '💥\u202e\u0301',
  '\u0000',
  '\ud800',
  "'; drop table files; --",
  '../../etc/passwd',
  'x'.repeat(5_000),
  [],
  {},
  [null],
  [[[[[]]]]],
  { a: { b: { c: [1, 'x', null] } } },
  { constructor: 1, toString: 2 },
];

/** Makes requests for the operations of a document. `ids` are names of parameters with values that exist. */
export class Requests {
  readonly #document: OpenApi;
  readonly #random: () => number;
  readonly #ids: Record<string, string[]>;
  readonly #operations: { method: string; path: string; operation: Operation }[];

  constructor(
    document: OpenApi,
    seed: number,
    ids: Record<string, string[]>,
    skip: (path: string) => boolean,
  ) {
    this.#document = document;
    this.#random = seeded(seed);
    this.#ids = ids;
    this.#operations = Object.entries(document.paths)
      .filter(([path]) => !skip(path))
      .flatMap(([path, item]) =>
        Object.entries(item).map(([method, operation]) => ({
          method: method.toUpperCase(),
          path,
          operation,
        })),
      );
  }

  get operations(): string[] {
    return this.#operations.map(({ method, path }) => `${method} ${path}`);
  }

  /** What a collection answered with is an id that later requests may use. */
  learn(path: string, answer: unknown): void {
    const id = (answer as { id?: unknown } | undefined)?.id;
    if (typeof id !== 'string') return;
    for (const { path: longer } of this.#operations) {
      const name = longer.startsWith(`${path}/{`)
        ? /^\{(\w+)\}/.exec(longer.slice(path.length + 1))?.[1]
        : undefined;
      if (!name) continue;
      const known = this.#ids[name] ?? [];
      if (!known.includes(id)) this.#ids[name] = [...known, id].slice(-20);
    }
  }

  /** The n-th request: every operation has its turn. */
  next(n: number): GeneratedRequest {
    const { method, path, operation } = this.#operations[n % this.#operations.length]!;
    let url = path;
    const query: string[] = [];
    for (const { name, in: place, required, schema } of operation.parameters ?? []) {
      if (place === 'path') url = url.replace(`{${name}}`, encodeURIComponent(this.#pathValue(name)));
      else if (place === 'query' && (required || this.#chance(0.5)))
        query.push(...this.#queryPairs(name, schema));
    }
    if (this.#chance(0.05))
      query.push(`surplus=${encodeURIComponent(JSON.stringify(this.#wild()).toWellFormed())}`);
    if (query.length > 0) url += `?${query.join('&')}`;
    const request: GeneratedRequest = { method, path, url, operation };
    const content = operation.requestBody?.content;
    if (content?.['application/json']) request.json = this.#body(content['application/json'].schema);
    else if (content?.['multipart/form-data'])
      request.form = this.#form(content['multipart/form-data'].schema);
    return request;
  }

  #chance(p: number): boolean {
    return this.#random() < p;
  }

  #pick<T>(items: readonly T[]): T {
    return items[Math.floor(this.#random() * items.length)]!;
  }

  /** A copy: what is sent may be bent further. */
  #wild(): unknown {
    return structuredClone(this.#pick(WILD));
  }

  #integer(min: number, max: number): number {
    return min + Math.floor(this.#random() * (max - min + 1));
  }

  #pathValue(name: string): string {
    const known = this.#ids[name];
    if (known && this.#chance(0.7)) return this.#pick(known);
    return this.#pick(['nobody', 'x'.repeat(300), '..', 'ft:x:y::z', '%00', '{}', '💥', 'a b', '-1']);
  }

  #queryPairs(name: string, schema: Schema): string[] {
    const value = this.#chance(0.6) ? this.sample(schema, 0) : this.#wild();
    const text = (each: unknown) =>
      encodeURIComponent((typeof each === 'string' ? each : (JSON.stringify(each) ?? '')).toWellFormed());
    if (value !== null && typeof value === 'object' && !Array.isArray(value))
      return Object.entries(value).map(([key, each]) => `${name}[${encodeURIComponent(key)}]=${text(each)}`);
    return [`${name}=${text(value)}`];
  }

  #body(schema: Schema): unknown {
    const value = this.sample(schema, 0);
    for (let bends = this.#pick([0, 0, 1, 1, 2]); bends > 0; bends--) this.#bend(value);
    return this.#chance(0.03) ? this.#wild() : value;
  }

  /** Changes one member somewhere inside: another value, gone, or one too many. */
  #bend(value: unknown): void {
    if (value === null || typeof value !== 'object') return;
    const keys = Object.keys(value);
    const key = keys.length > 0 ? this.#pick(keys) : 'surplus';
    const holder = value as Record<string, unknown>;
    const inside = holder[key] !== null && typeof holder[key] === 'object' && this.#chance(0.6);
    if (inside) this.#bend(holder[key]);
    else if (this.#chance(0.15) && !Array.isArray(value))
      holder[this.#pick(['surplus', 'n_epoch', '💥', ''])] = this.#wild();
    else if (this.#chance(0.2) && !Array.isArray(value)) delete holder[key];
    else holder[key] = this.#wild();
  }

  #form(schema: Schema): FormData {
    const form = new FormData();
    for (const [name, each] of Object.entries(schema.properties ?? {})) {
      if (!schema.required?.includes(name) && this.#chance(0.7)) continue;
      if (this.#chance(0.05)) continue;
      if (each.format === 'binary') {
        const text = this.#pick([
          '',
          '{"a":1}\n',
          'not json',
          '[1]',
          '{"messages":[]}\n'.repeat(20),
          '\u0000\uffff',
        ]);
        form.append(name, new File([text], this.#pick(['a.jsonl', 'a.txt', '../x', '💥.jsonl', ' '])));
      } else {
        const value = this.#chance(0.8) ? this.sample(each, 0) : this.#wild();
        form.append(name, String(typeof value === 'object' ? JSON.stringify(value) : value).toWellFormed());
      }
    }
    if (this.#chance(0.05)) form.append('surplus', 'x');
    return form;
  }

  /** A value that fits the schema, ids that exist where a name asks for one. */
  sample(schema: Schema, depth: number, name = ''): unknown {
    const ids = this.#ids[name];
    if (ids && this.#chance(0.85)) return this.#pick(ids);
    if (schema.$ref) return this.sample(this.#resolve(schema.$ref), depth, name);
    if (schema.const !== undefined) return schema.const;
    if (schema.enum) return this.#pick(schema.enum);
    const branches = schema.anyOf ?? schema.oneOf;
    if (branches) return this.sample(this.#pick(branches), depth, name);
    if (schema.allOf) {
      const parts = schema.allOf.map((each) => this.sample(each, depth, name));
      return parts.every((part) => part !== null && typeof part === 'object')
        ? Object.assign({}, ...parts)
        : parts[0];
    }
    const types = Array.isArray(schema.type) ? schema.type : [schema.type];
    switch (this.#pick(types)) {
      case 'object':
        return this.#object(schema, depth);
      case 'array':
        return this.#array(schema, depth);
      case 'string':
        return this.#string(schema);
      case 'integer':
        return this.#integer(
          bound(schema.minimum, schema.exclusiveMinimum, 0),
          bound(schema.maximum, schema.exclusiveMaximum, 50),
        );
      case 'number':
        return Math.min(
          schema.maximum ?? 1,
          (schema.minimum ?? schema.exclusiveMinimum ?? 0) + this.#random(),
        );
      case 'boolean':
        return this.#chance(0.5);
      case 'null':
        return null;
      default:
        return this.#pick(['x', 1, true, null, {}, []]);
    }
  }

  #resolve(ref: string): Schema {
    return this.#document.components.schemas[ref.split('/').at(-1) ?? ''] ?? {};
  }

  #object(schema: Schema, depth: number): Record<string, unknown> {
    const value: Record<string, unknown> = {};
    for (const [key, each] of Object.entries(schema.properties ?? {})) {
      const wanted = schema.required?.includes(key) ?? false;
      if (wanted || this.#chance(depth === 0 ? 0.15 : 0.35)) value[key] = this.sample(each, depth + 1, key);
    }
    const more = schema.additionalProperties;
    if (more && typeof more === 'object' && depth < 6)
      for (let i = this.#integer(0, 2); i > 0; i--) value[`k${i}`] = this.sample(more, depth + 1);
    return value;
  }

  #array(schema: Schema, depth: number): unknown[] {
    if (schema.prefixItems) return schema.prefixItems.map((each) => this.sample(each, depth + 1));
    const items = schema.items;
    if (!items || depth > 8) return [];
    const length = this.#integer(
      schema.minItems ?? 0,
      Math.min(schema.maxItems ?? 3, (schema.minItems ?? 0) + 3),
    );
    return Array.from({ length }, () => this.sample(items, depth + 1));
  }

  #string(schema: Schema): string {
    const text = this.#pick(['Hi', 'text-1', 'überall 💡', '{{item.a}}', '24', 'file-abc', 'a'.repeat(20)]);
    return text.slice(0, schema.maxLength ?? 64).padEnd(schema.minLength ?? 0, 'x');
  }
}

const bound = (inclusive: number | undefined, exclusive: number | undefined, fallback: number) =>
  Math.min(
    inclusive ?? (exclusive !== undefined ? exclusive + (fallback === 0 ? 1 : -1) : fallback),
    2 ** 40,
  );
