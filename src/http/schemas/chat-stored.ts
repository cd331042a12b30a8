/** Stored chat completions as OpenAI shows them: the answer, what was asked, and the messages one by one. */
import type { z } from '@hono/zod-openapi';
import type { StoredRow } from '../../domain/chat/stored.ts';
import { strictObject } from '../../domain/jobs/parameters.ts';
import { invalidValue } from '../../errors.ts';
import type { ChatCompletion, StoredChatCompletion, storedMessageSchema } from './chat-answer.ts';
import type { CompletionBody } from './chat-completion.ts';
import type { Page } from './list.ts';
import { metadataSchema } from './metadata.ts';

export const updateStoredSchema = strictObject({ metadata: metadataSchema.nullable() }).openapi(
  'UpdateChatCompletionRequest',
);

type KeptRequest = CompletionBody & { request_id: string };

export function presentStored(row: StoredRow): StoredChatCompletion {
  const request = row.request as unknown as KeptRequest;
  const completion = row.completion as unknown as ChatCompletion;
  return {
    ...completion,
    metadata: row.metadata,
    request_id: request.request_id,
    input_user: request.user ?? null,
    seed: request.seed ?? null,
    temperature: request.temperature ?? 1,
    top_p: request.top_p ?? 1,
    presence_penalty: request.presence_penalty ?? 0,
    frequency_penalty: request.frequency_penalty ?? 0,
    tools: request.tools ?? null,
    tool_choice: request.tool_choice ?? null,
    response_format: request.response_format ?? null,
  };
}

interface MessageQuery {
  limit: number;
  order: 'asc' | 'desc';
  after?: string | undefined;
}

/** One page of the messages that were sent; each is named after its place. */
export function presentMessages(
  row: StoredRow,
  query: MessageQuery,
): Page<z.infer<typeof storedMessageSchema>> {
  const { messages } = row.request as unknown as KeptRequest;
  const all = messages.map((message, index) => ({
    ...message,
    id: `${row.id}-${index}`,
    ...contentOf(message.content),
  }));
  if (query.order === 'desc') all.reverse();
  const start = query.after === undefined ? 0 : all.findIndex(({ id }) => id === query.after) + 1;
  if (query.after !== undefined && start === 0)
    throw invalidValue('after', `no message '${query.after}' to continue from.`);
  return { items: all.slice(start, start + query.limit), hasMore: all.length > start + query.limit };
}

/** OpenAI's stored messages have text, and the parts it came in beside it. */
function contentOf(content: unknown): { content: string | null; content_parts?: unknown[] } {
  if (!Array.isArray(content)) return { content: (content as string | null | undefined) ?? null };
  const texts = content.map((part: { text?: string; refusal?: string }) => part.text ?? part.refusal ?? '');
  return { content: texts.join(''), content_parts: content };
}
