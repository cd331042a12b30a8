/** The JSON schemas of a chat completion, checked before a worker is troubled with them. */
import { ApiError, overloaded } from '../../errors.ts';
import { CheckerBusy, type CheckRequest, SchemaChecker } from '../../inference/grammar/schema-checker.ts';
import type { CompletionBody } from './chat-completion.ts';

const checker = new SchemaChecker({ deadlineMilliseconds: 2_000, waitingMax: 256 });

type Check = CheckRequest['schemas'][number] & {
  what: string;
  param: string;
};

/** @throws ApiError 400 for a strict schema outside the supported subset, what is no schema or too large, 503 when too many wait */
export async function checkSchemas(body: CompletionBody): Promise<void> {
  const checks = [...schemasOf(body)];
  if (checks.length === 0) return;
  const result = await checker
    .check(checks.map(({ schema, options }) => ({ schema, options })))
    .catch((error: unknown) => {
      if (!(error instanceof CheckerBusy)) throw error;
      throw overloaded('Too many schemas are being checked. Please try again.', 1);
    });
  if (result === null) return;
  const { what, param } = checks[result.index]!;
  const message = `Invalid schema for ${what}: ${result.why}`;
  throw new ApiError({ status: 400, message, param, code: 'invalid_json_schema' });
}

/** Strict functions and formats get exactly their schema; the others as much of it as can be kept, so only what is no schema is refused. */
function* schemasOf({ functions, tools, response_format: format }: CompletionBody): Generator<Check> {
  const offered = functions ?? (tools ?? []).map((tool) => (tool as { function: FunctionShape }).function);
  for (const [index, { name, parameters, strict }] of (offered as FunctionShape[]).entries()) {
    if (!parameters) continue;
    yield {
      schema: parameters,
      options: strict ? { strict } : { lenient: true },
      what: `function '${name}'`,
      param: `${functions ? `functions[${index}]` : `tools[${index}].function`}.parameters`,
    };
  }
  if (format?.type !== 'json_schema' || !format.json_schema.schema) return;
  const { name, schema, strict } = format.json_schema;
  yield {
    schema,
    options: strict ? { strict } : { lenient: true },
    what: `response_format '${name}'`,
    param: 'response_format',
  };
}

interface FunctionShape {
  name: string;
  parameters?: Record<string, unknown> | null | undefined;
  strict?: boolean | null | undefined;
}
