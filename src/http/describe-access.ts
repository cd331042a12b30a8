/**
 * What the table of scopes says about each operation, written into the OpenAPI document: the scope it asks for, the
 * Idempotency-Key where one is honoured, and the refusals that come of both. Knows the table, not the routes.
 */
import { ROUTE_RULES } from './scopes.ts';

interface Operation {
  description?: string;
  parameters?: unknown[];
  responses?: Record<string, unknown>;
}

const KEY = {
  name: 'Idempotency-Key',
  in: 'header',
  required: false,
  description: 'The same key with the same body within 24 hours gives the first answer again.',
  schema: { type: 'string', minLength: 1, maxLength: 255, pattern: '^[\\x21-\\x7e]+$' },
};

/** Adds to the operations of `paths` (OpenAPI templates) in place. */
export function describeAccess(paths: Record<string, object>): void {
  for (const [route, rule] of Object.entries(ROUTE_RULES)) {
    const [method = '', pattern = ''] = route.split(' ');
    const item = paths[pattern.replace(/:(\w+)(\{[^}]*\})?/g, '{$1}')] as
      | Record<string, Operation>
      | undefined;
    const operation = item?.[method.toLowerCase()];
    if (!operation) continue;
    const scope = `Needs the scope \`${rule.scope}\`.`;
    operation.description = [operation.description, scope].filter(Boolean).join('\n\n');
    const refusal = (description: string) => ({ ...(operation.responses?.['401'] as object), description });
    if (rule.idempotent) {
      operation.parameters = [...(operation.parameters ?? []), KEY];
      operation.responses = {
        ...operation.responses,
        409: refusal('The Idempotency-Key was used for another request, or its first request still runs.'),
      };
    }
    if (rule.rateLimited) {
      operation.responses = {
        ...operation.responses,
        429: refusal('Too many requests or tokens a minute; repeat after `retry-after` seconds.'),
      };
    }
  }
}
