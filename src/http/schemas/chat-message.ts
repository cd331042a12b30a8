/** The messages of a chat, role by role. Text only: other parts are refused by name, and nothing is fetched. */
import { z } from '@hono/zod-openapi';
import { strictObject } from '../../domain/jobs/parameters.ts';

const text = z.object({ type: z.literal('text'), text: z.string() });
const refusal = z.object({ type: z.literal('refusal'), refusal: z.string() });

const unsupported = <T extends string>(type: T) =>
  z.looseObject({ type: z.literal(type) }).refine(() => false, {
    message: `parts of type '${type}' are not supported: the model reads text.`,
    params: { code: 'unsupported_content' },
  });

const inputPart = z.discriminatedUnion('type', [
  text,
  unsupported('image_url'),
  unsupported('input_audio'),
  unsupported('file'),
]);
const inputContent = z.union([z.string(), z.array(inputPart).min(1)]);
const textContent = z.union([z.string(), z.array(text).min(1)]);
const assistantContent = z.union([z.string(), z.array(z.discriminatedUnion('type', [text, refusal])).min(1)]);

const name = z.string().max(512).nullish();

// SDKs' stream helpers leave the call's place in it and what they parsed, and send both back.
const toolCall = strictObject({
  id: z.string(),
  type: z.literal('function'),
  function: strictObject({
    ...{ name: z.string(), arguments: z.string() },
    parsed_arguments: z.unknown().optional(),
  }).transform(({ name: called, arguments: given }) => ({ name: called, arguments: given })),
  index: z.int().min(0).nullish(),
}).transform(({ index: _, ...call }) => call);

export const messageSchema = z.discriminatedUnion('role', [
  strictObject({ role: z.literal('developer'), content: textContent, name }),
  strictObject({ role: z.literal('system'), content: textContent, name }),
  strictObject({ role: z.literal('user'), content: inputContent, name }),
  strictObject({
    role: z.literal('assistant'),
    content: assistantContent.nullish(),
    name,
    refusal: z.string().nullish(),
    tool_calls: z.array(toolCall).max(128).nullish(),
    function_call: strictObject({ name: z.string(), arguments: z.string() }).nullish(),
    // Part of OpenAI's own answers, which clients send back as they got them.
    audio: z.null().optional(),
    annotations: z.array(z.unknown()).nullish(),
    parsed: z.unknown().optional(),
  }),
  // The function's name is not in OpenAI's types, but in the examples that its callers were written after.
  strictObject({ role: z.literal('tool'), content: textContent, tool_call_id: z.string().max(512), name }),
  strictObject({ role: z.literal('function'), content: z.string().nullable(), name: z.string().max(512) }),
]);

export type RequestMessage = z.infer<typeof messageSchema>;
