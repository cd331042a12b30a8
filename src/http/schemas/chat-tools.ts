/**
 * Tools and answer formats of a chat completion: what OpenAI's parameters allow, and how they become what a worker
 * understands. The old `functions` are tools under another name.
 */
import { z } from '@hono/zod-openapi';
import { strictObject } from '../../domain/jobs/parameters.ts';
import { invalidValue } from '../../errors.ts';
import type { WireFormat, WireToolChoice } from '../../inference/protocol.ts';

const TOOLS_MAX = 128;

const identifier = z
  .string()
  .max(64)
  .regex(/^[A-Za-z0-9_-]+$/, "expected letters, digits, '_' and '-' only");
const jsonSchema = z.record(z.string(), z.unknown());

const functionShape = {
  name: identifier,
  description: z.string().nullish(),
  parameters: jsonSchema.nullish(),
};

const unsupported = <T extends string>(type: T, what: string) =>
  z.looseObject({ type: z.literal(type) }).refine(() => false, {
    message: `${what} are not supported by this server.`,
    params: { code: 'unsupported_value' },
  });

export const toolsSchema = z
  .array(
    z.discriminatedUnion('type', [
      strictObject({
        type: z.literal('function'),
        function: strictObject({ ...functionShape, strict: z.boolean().nullish() }),
      }),
      unsupported('custom', 'custom tools'),
    ]),
  )
  .max(TOOLS_MAX);

const namedFunction = strictObject({
  type: z.literal('function'),
  function: strictObject({ name: z.string() }),
});

export const toolChoiceSchema = z.union([
  z.enum(['none', 'auto', 'required']),
  z.discriminatedUnion('type', [
    namedFunction,
    strictObject({
      type: z.literal('allowed_tools'),
      allowed_tools: strictObject({
        mode: z.enum(['auto', 'required']),
        tools: z.array(namedFunction).min(1).max(TOOLS_MAX),
      }),
    }),
    unsupported('custom', 'custom tools'),
  ]),
]);

export const functionsSchema = z.array(strictObject(functionShape)).min(1).max(TOOLS_MAX);
export const functionCallSchema = z.union([z.enum(['none', 'auto']), strictObject({ name: z.string() })]);

export const responseFormatSchema = z.discriminatedUnion('type', [
  strictObject({ type: z.literal('text') }),
  strictObject({ type: z.literal('json_object') }),
  strictObject({
    type: z.literal('json_schema'),
    json_schema: strictObject({
      name: identifier,
      description: z.string().nullish(),
      schema: jsonSchema.nullish(),
      strict: z.boolean().nullish(),
    }),
  }),
]);

/** The parameters of a body that concern tools. */
export interface ToolParameters {
  tools?: z.infer<typeof toolsSchema> | null | undefined;
  tool_choice?: z.infer<typeof toolChoiceSchema> | null | undefined;
  parallel_tool_calls?: boolean | null | undefined;
  functions?: z.infer<typeof functionsSchema> | null | undefined;
  function_call?: z.infer<typeof functionCallSchema> | null | undefined;
}

interface FunctionTool {
  type: 'function';
  function: { name: string; description?: string; parameters?: Record<string, unknown>; strict?: boolean };
}

/**
 * Tools as templates and workers know them; null when there are none.
 * @throws ApiError 400 for a choice of a function that is not offered
 */
export function wireTools(body: ToolParameters): { tools: FunctionTool[]; choice: WireToolChoice } | null {
  const legacy = body.functions ?? null;
  if (legacy && body.tools)
    throw invalidValue(
      'functions',
      "it is the old form of 'tools'. Send one of them.",
      'conflicting_parameters',
    );
  const tools = legacy
    ? legacy.map((fn) => functionTool(fn))
    : (body.tools ?? []).map((tool) => functionTool((tool as { function: FunctionShape }).function));
  const param = legacy ? 'functions' : 'tools';
  const choiceParam = legacy ? 'function_call' : 'tool_choice';
  const given = legacy ? fromFunctionCall(body.function_call ?? null) : (body.tool_choice ?? null);
  if (tools.length === 0) {
    if (given === null || given === 'none' || given === 'auto') return null;
    throw invalidValue(choiceParam, "it is only allowed when 'tools' are given.");
  }
  const names = new Set(tools.map((tool) => tool.function.name));
  if (names.size < tools.length) throw invalidValue(param, 'two functions have the same name.');
  const parallel = legacy ? false : (body.parallel_tool_calls ?? true);
  return { tools, choice: wireChoice(given ?? 'auto', names, parallel, choiceParam) };
}

interface FunctionShape {
  name: string;
  description?: string | null | undefined;
  parameters?: Record<string, unknown> | null | undefined;
  strict?: boolean | null | undefined;
}

/** Templates print what they get, so nothing is null and `strict` is left out unless it holds. */
function functionTool({ name, description, parameters, strict }: FunctionShape): FunctionTool {
  return {
    type: 'function',
    function: {
      name,
      ...(description ? { description } : {}),
      ...(parameters ? { parameters } : {}),
      ...(strict ? { strict } : {}),
    },
  };
}

type Choice = z.infer<typeof toolChoiceSchema>;

function fromFunctionCall(call: z.infer<typeof functionCallSchema> | null): Choice | null {
  return call === null || typeof call === 'string' ? call : { type: 'function', function: call };
}

function wireChoice(
  given: Choice,
  names: ReadonlySet<string>,
  parallel: boolean,
  param: string,
): WireToolChoice {
  if (typeof given === 'string') return { mode: given, names: null, parallel };
  if (given.type === 'custom') throw invalidValue(param, 'custom tools are not supported by this server.');
  const isNamed = given.type === 'function';
  const chosen = isNamed
    ? [given.function.name]
    : given.allowed_tools.tools.map((tool) => tool.function.name);
  const unknown = chosen.find((name) => !names.has(name));
  if (unknown !== undefined)
    throw invalidValue(param, `there is no function '${unknown.slice(0, 80)}' among the tools.`);
  return {
    mode: isNamed ? 'required' : given.allowed_tools.mode,
    names: chosen,
    parallel: isNamed ? false : parallel,
  };
}

/** The format as workers know it; null for free text. */
export function wireFormat(
  format: z.infer<typeof responseFormatSchema> | null | undefined,
): WireFormat | null {
  if (!format || format.type === 'text') return null;
  if (format.type === 'json_object') return { type: 'json_object' };
  const { schema, strict } = format.json_schema;
  return { type: 'json_schema', schema: schema ?? { type: 'object' }, strict: strict ?? false };
}
