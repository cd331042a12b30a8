/** Stored chat completions as OpenAI shows them: the answer, what was asked, and the messages one by one. */
import type { z } from '@hono/zod-openapi';
import type { CompletionToStore, StoredMessages, StoredRow } from '../../domain/chat/stored.ts';
import { strictObject } from '../../domain/jobs/parameters.ts';
import { invalidValue } from '../../errors.ts';
import type { ChatCompletion, StoredChatCompletion, storedMessageSchema } from './chat-answer.ts';
import type { CompletionBody } from './chat-completion.ts';
import type { Page } from './list.ts';
import { metadataSchema } from './metadata.ts';

export const updateStoredSchema = strictObject({ metadata: metadataSchema.nullable() }).openapi(
  'UpdateChatCompletionRequest',
);

/** What is kept: the answer with the parameters that are shown beside it, and apart from it the messages alone. */
export function toStored(
  request: CompletionBody,
  requestId: string,
  completion: ChatCompletion,
): CompletionToStore {
  const shown: Omit<StoredChatCompletion, 'metadata'> = {
    ...completion,
    request_id: requestId,
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
  return {
    id: completion.id,
    model: completion.model,
    metadata: request.metadata ?? null,
    request: { messages: request.messages },
    completion: shown,
  };
}

export function presentStored({ completion, metadata }: StoredRow): StoredChatCompletion {
  return { ...(completion as unknown as Omit<StoredChatCompletion, 'metadata'>), metadata };
}

interface MessageQuery {
  limit: number;
  order: 'asc' | 'desc';
  after?: string | undefined;
}

/** One page of the messages that were sent; each is named after its place. */
export function presentMessages(
  row: StoredMessages,
  query: MessageQuery,
): Page<z.infer<typeof storedMessageSchema>> {
  const { messages } = row.request as unknown as Pick<CompletionBody, 'messages'>;
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
