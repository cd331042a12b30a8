/** Which keywords of JSON Schema the grammars know: those that bind, and those that only say something. */
import type { Schema } from './json-schema.ts';

const ANNOTATIONS = new Set([
  '$schema',
  '$id',
  '$comment',
  '$defs',
  'definitions',
  'title',
  'description',
  'default',
  'example',
  'examples',
  'deprecated',
  'readOnly',
  'writeOnly',
  'discriminator',
  'contentMediaType',
  'contentEncoding',
]);
/** The types, and the keywords that bind values of each. */
export const OF_TYPE: Record<string, readonly string[]> = {
  string: ['minLength', 'maxLength', 'pattern', 'format'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf', 'format'],
  integer: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf', 'format'],
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  boolean: [],
  null: [],
};
const ASSERTIONS = new Set([
  ...Object.values(OF_TYPE).flat(),
  'type',
  'enum',
  'const',
  'anyOf',
  'oneOf',
  'allOf',
  '$ref',
]);

/** Whether a grammar can keep the keyword, or need not. */
export function isKnown(keyword: string): boolean {
  return ANNOTATIONS.has(keyword) || ASSERTIONS.has(keyword) || keyword.startsWith('x-');
}

/** The keywords of a schema that bind. */
export function bindingKeywords(schema: Schema): string[] {
  return Object.keys(schema).filter((keyword) => ASSERTIONS.has(keyword));
}
