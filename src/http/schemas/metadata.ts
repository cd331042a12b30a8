/** Metadata: up to 16 short pairs on an object, and the filter that finds objects by them. */
import { z } from '@hono/zod-openapi';
import { badRequest } from '../../errors.ts';

const PAIRS_MAX = 16;

export const metadataSchema = z
  .record(z.string().max(64), z.string().max(512))
  .superRefine((pairs, context) => {
    const got = Object.keys(pairs).length;
    if (got <= PAIRS_MAX) return;
    const message = `too many properties. Expected an object with at most ${PAIRS_MAX} properties, but got ${got} instead.`;
    context.addIssue({ code: 'custom', message, params: { code: 'object_above_max_properties' } });
  })
  .openapi({ description: 'At most 16 pairs; keys of 64, values of 512 characters.' });

/** The filter as documentation; metadataFilter reads it, because no schema sees the keys in brackets as one value. */
export const metadataQuery = z
  .unknown()
  .optional()
  .openapi({
    type: ['object', 'null'],
    additionalProperties: { type: 'string' },
    param: { style: 'deepObject', explode: true },
    description: '`metadata[k]=v` keeps jobs that have the pair, `metadata=null` those without metadata.',
  });

/**
 * The filter in a list's query: `metadata[k]=v` for pairs an object must have (raw or percent-encoded brackets),
 * `metadata=` or `metadata=null` for objects without metadata, absent for all. Throws ApiError for anything else that
 * begins with the word: a filter that is not understood must not answer with everything.
 */
export function metadataFilter(queries: Record<string, string[]>): Record<string, string> | null | undefined {
  const pairs: Record<string, string> = Object.create(null);
  let none = false;
  for (const [name, values] of Object.entries(queries)) {
    if (!/^metadata(?!\w)/i.test(name)) continue;
    const key = /^metadata\[((?:(?!\]\[).)+)\]$/s.exec(name)?.[1];
    const value = values[0] ?? '';
    if (values.length > 1)
      throw badRequest(`'${name.slice(0, 80)}' is given more than once.`, 'metadata', 'duplicate_parameter');
    if (key === undefined) {
      if (name !== 'metadata' || (value !== '' && value !== 'null')) {
        throw badRequest(
          `Invalid '${name.slice(0, 80)}': expected metadata[key]=value or metadata=null.`,
          'metadata',
          'invalid_value',
        );
      }
      none = true;
    } else {
      pairs[key] = value;
    }
  }
  if (none && Object.keys(pairs).length > 0) {
    throw badRequest(
      "'metadata=null' and 'metadata[key]=value' exclude each other.",
      'metadata',
      'conflicting_parameters',
    );
  }
  if (none) return null;
  return Object.keys(pairs).length > 0 ? pairs : undefined;
}
