/** OpenAI's error envelope, and the answers every route may give. */
import { z } from '@hono/zod-openapi';

const errorSchema = z
  .object({
    error: z.object({
      message: z.string(),
      type: z.string(),
      param: z.string().nullable(),
      code: z.string().nullable(),
    }),
  })
  .openapi('Error');

const answer = (description: string) => ({
  description,
  content: { 'application/json': { schema: errorSchema } },
});

const DESCRIPTIONS = {
  400: 'The request is not valid; `param` and `code` say where and why.',
  401: 'The key is missing or not accepted.',
  403: 'Not allowed: the key lacks the scope, or a quota of the project is used up.',
  404: 'Unknown to this project.',
  409: 'At odds with another request.',
  413: 'Larger than the server accepts.',
  415: 'The Content-Type or Content-Encoding is not accepted.',
  416: 'The range lies outside of the bytes.',
  429: 'Too much at once; repeat after `retry-after` seconds.',
  500: 'The server failed; the message names the request id.',
  503: 'Cannot be served at the moment; repeat after `retry-after` seconds.',
} as const;

/** Error answers for a route's `responses`; 401, 403, 500 and 503 are always among them: every key is looked up. */
export function errors(...statuses: (keyof typeof DESCRIPTIONS)[]) {
  const all = [...new Set([...statuses, 401, 403, 500, 503] as const)].toSorted((a, b) => a - b);
  return Object.fromEntries(all.map((status) => [status, answer(DESCRIPTIONS[status])]));
}

/** A 200 with a JSON body. */
export const ok = <S extends z.ZodType>(schema: S, description = 'OK') => ({
  200: { description, content: { 'application/json': { schema } } },
});
