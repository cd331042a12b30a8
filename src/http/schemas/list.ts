/** Pages: OpenAI's list object and its query parameters. */
import { z } from '@hono/zod-openapi';
import { INTEGER_BOUND, integer } from '../../domain/jobs/parameters.ts';

/** A whole number in a query string, documented as an integer. */
export const queryInteger = (min: number, max: number, fallback: number) =>
  z
    .string()
    .regex(/^-?\d{1,15}$/, INTEGER_BOUND)
    .transform(Number)
    .pipe(integer(min, max))
    .default(fallback)
    .openapi({ type: 'integer', minimum: min, maximum: max, default: fallback });

/** As queryInteger, but more than `max` means `max`: a page may always be shorter than asked, `has_more` tells. */
export const pageSize = (max: number, fallback: number) =>
  z
    .string()
    .regex(/^-?\d{1,15}$/, INTEGER_BOUND)
    .transform((text) => Math.min(Number(text), max))
    .pipe(integer(1, max))
    .default(fallback)
    .openapi({
      type: 'integer',
      minimum: 1,
      default: fallback,
      description: `Items per page; more than ${max} means ${max}.`,
    });

/** An empty one, as clients send that have none yet, is none. */
export const cursor = z
  .string()
  .max(200)
  .transform((id) => (id === '' ? undefined : id))
  .optional()
  .openapi({ type: 'string', maxLength: 200, description: 'Id of the last item of the page before.' });

/** `{object:"list", data, has_more}`, with first_id and last_id where OpenAI sends them. */
export function listOf<S extends z.ZodType>(item: S) {
  return z.object({ object: z.literal('list'), data: z.array(item), has_more: z.boolean() });
}

export function listWithEnds<S extends z.ZodType>(item: S) {
  return listOf(item).extend({ first_id: z.string().nullable(), last_id: z.string().nullable() });
}

export interface Page<T> {
  items: T[];
  hasMore: boolean;
}

export function toList<T, O>(page: Page<T>, present: (item: T) => O) {
  return { object: 'list' as const, data: page.items.map(present), has_more: page.hasMore };
}

export function toListWithEnds<T, O extends { id: string }>(page: Page<T>, present: (item: T) => O) {
  const list = toList(page, present);
  return { ...list, first_id: list.data[0]?.id ?? null, last_id: list.data.at(-1)?.id ?? null };
}
