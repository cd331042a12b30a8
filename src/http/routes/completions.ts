/** /v1/completions, the legacy text completions: plain and streamed, of one or several prompts. */
import { createRoute } from '@hono/zod-openapi';
import { startCompletion } from '../../domain/chat/complete.ts';
import type { Dependencies } from '../../domain/dependencies.ts';
import {
  gatherText,
  presentText,
  type TextAnswer,
  type TextOptions,
  textChunks,
} from '../completion-objects.ts';
import { type App, logOf } from '../context.ts';
import { onDrainOver } from '../drain.ts';
import { toPublicError } from '../error-handler.ts';
import { whileKeyLives } from '../revocation.ts';
import {
  createTextCompletionSchema,
  type Prompt,
  promptsOf,
  textCompletionSchema,
  toGeneration,
} from '../schemas/completion.ts';
import { errors } from '../schemas/error.ts';
import { eventStream, settledWithin } from '../sse.ts';

/** As in chat: a stream that fails within this time answers with a status. */
const FIRST_TOKEN_MS = 10_000;
/** Prompts of one request that are generated at the same time. */
const PARALLEL_PROMPTS = 8;

const create = createRoute({
  method: 'post',
  path: '/v1/completions',
  tags: ['Completions'],
  summary: 'Create a text completion (legacy)',
  request: {
    body: { required: true, content: { 'application/json': { schema: createTextCompletionSchema } } },
  },
  responses: {
    200: {
      description: 'The completion; with `stream`, server-sent events of the same shape and a last `[DONE]`.',
      content: {
        'application/json': { schema: textCompletionSchema },
        'text/event-stream': { schema: textCompletionSchema },
      },
    },
    ...errors(400, 404, 413, 415, 429),
  },
});

export function completionRoutes(app: App, deps: Dependencies): void {
  app.openapi(create, async (c) => {
    const body = c.req.valid('json');
    const left = new AbortController();
    const signal = AbortSignal.any([c.req.raw.signal, left.signal]);
    onDrainOver(c, (error) => left.abort(error));
    const { projectId } = c.var.identity;
    const n = body.n ?? 1;
    const options: TextOptions = {
      n,
      bestOf: body.best_of || n,
      echo: body.echo ?? false,
      logprobs: body.logprobs ?? null,
    };
    const start = (prompt: Prompt) =>
      startCompletion({ ...deps, log: logOf(c) }, projectId, toGeneration(body, prompt), signal);
    const prompts = promptsOf(body.prompt);
    if (!body.stream) {
      const answers = await inOrder(prompts, async (prompt) =>
        gatherText(prompt, await start(prompt), options),
      );
      return c.json(presentText(answers, options), 200);
    }
    const first = start(prompts[0]!);
    await settledWithin(first, FIRST_TOKEN_MS);
    const starting = prompts.map((prompt, p) => ({
      prompt,
      completion: () => (p === 0 ? first : start(prompt)),
    }));
    const includeUsage = body.stream_options?.include_usage ?? false;
    const onFailure = (error: unknown) => toPublicError(error, c);
    const chunks = textChunks(starting, { ...options, includeUsage, onFailure }, signal);
    return eventStream(
      whileKeyLives(c, deps, chunks, () => left.abort()),
      () => left.abort(),
    );
  });
}

/** Works on a few prompts at a time; the answers come in the order of the prompts. */
async function inOrder(
  prompts: Prompt[],
  work: (prompt: Prompt) => Promise<TextAnswer>,
): Promise<TextAnswer[]> {
  const answers: TextAnswer[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < prompts.length) {
      const index = next++;
      answers[index] = await work(prompts[index]!);
    }
  };
  await Promise.all(Array.from({ length: Math.min(PARALLEL_PROMPTS, prompts.length) }, worker));
  return answers;
}
