/** Events and checkpoints of a job: lists, newest first, and the events as a stream, oldest first. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Dependencies } from '../../domain/dependencies.ts';
import { pageOfCheckpoints, pageOfEvents } from '../../domain/jobs/control.ts';
import { type FollowEnd, followJob } from '../../domain/jobs/follow.ts';
import type { App, AppContext } from '../context.ts';
import { whileKeyLives } from '../revocation.ts';
import { checkpointSchema, presentCheckpoint } from '../schemas/checkpoint.ts';
import { errors, ok } from '../schemas/error.ts';
import { eventSchema, presentEvent, streamedEvents } from '../schemas/event.ts';
import { cursor, listOf, listWithEnds, pageSize, toList, toListWithEnds } from '../schemas/list.ts';
import { byteStream } from '../sse.ts';
import { StreamPlaces } from '../stream-places.ts';
import { jobParams } from './fine-tuning-jobs.ts';

const tags = ['Fine-tuning'];

const events = createRoute({
  method: 'get',
  path: '/v1/fine_tuning/jobs/{fine_tuning_job_id}/events',
  tags,
  summary: 'List the events of a job, or follow them',
  description:
    'With `stream=true` or `Accept: text/event-stream` the events come as server-sent events: all of them from the ' +
    'first, or those after `Last-Event-ID` (or `after`), then each new one as it happens. The stream ends with ' +
    '`data: [DONE]` after the last event of a job that has ended; coming back to it then answers 204.',
  request: {
    params: jobParams,
    query: z.object({
      limit: pageSize(1000, 20),
      after: cursor,
      stream: z
        .enum(['true', 'false'])
        .optional()
        .openapi({ type: 'boolean', description: 'Server-sent events instead of a list.' }),
    }),
  },
  responses: {
    200: {
      description: 'OK',
      content: {
        'application/json': { schema: listOf(eventSchema) },
        'text/event-stream': { schema: z.string() },
      },
    },
    204: { description: 'The job has ended, and nothing came after the given event.' },
    ...errors(400, 404, 429),
  },
});

const checkpoints = createRoute({
  method: 'get',
  path: '/v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints',
  tags,
  summary: 'List the checkpoints of a job',
  request: { params: jobParams, query: z.object({ limit: pageSize(1000, 10), after: cursor }) },
  responses: { ...ok(listWithEnds(checkpointSchema)), ...errors(400, 404) },
});

/** Whether the caller asks for a stream, by word or by type. */
function wantsStream(c: AppContext, stream: 'true' | 'false' | undefined): boolean {
  if (stream !== undefined) return stream === 'true';
  return (c.req.header('accept') ?? '').split(',').some((type) => /^\s*text\/event-stream\b/i.test(type));
}

async function stream(
  deps: Dependencies,
  places: StreamPlaces,
  c: AppContext,
  jobId: string,
  after: string | undefined,
) {
  const returning = c.req.header('last-event-id') || null;
  const from = returning ?? after ?? null;
  const { events, isOver } = await followJob(deps, c.var.identity.projectId, jobId, from);
  if (isOver && returning !== null) {
    await events.return?.();
    return c.body(null, 204); // tells a browser's EventSource not to come back
  }
  const placed = await places.take(c.var.identity.keyId, withEnd(events));
  return byteStream(
    whileKeyLives(c, deps, placed, () => void events.return?.()),
    (item) => (item === END ? DONE : streamedEvents(item)),
    () => {},
  );
}

const END = Symbol('end');
const DONE = new TextEncoder().encode('data: [DONE]\n\n');

/** The batches, then END when the job has ended; a process that leaves says nothing, and its clients come back. */
function withEnd<T>(source: AsyncIterator<T, FollowEnd>): AsyncIterator<T | typeof END, void> {
  let ended = false;
  return {
    next: async () => {
      if (ended) return { done: true, value: undefined };
      const next = await source.next();
      if (!next.done) return next;
      ended = true;
      return next.value === 'ended' ? { done: false, value: END } : { done: true, value: undefined };
    },
    return: async () => {
      await source.return?.();
      return { done: true, value: undefined };
    },
  };
}

export function fineTuningEventRoutes(app: App, deps: Dependencies): void {
  const places = new StreamPlaces(deps.config.maxEventStreams);
  app.openapi(events, async (c) => {
    const jobId = c.req.valid('param').fine_tuning_job_id;
    const query = c.req.valid('query');
    if (wantsStream(c, query.stream)) return (await stream(deps, places, c, jobId, query.after)) as never;
    const page = await pageOfEvents(deps, c.var.identity.projectId, jobId, query);
    return c.json(toList(page, presentEvent), 200);
  });

  app.openapi(checkpoints, async (c) => {
    const jobId = c.req.valid('param').fine_tuning_job_id;
    const page = await pageOfCheckpoints(deps, c.var.identity.projectId, jobId, c.req.valid('query'));
    return c.json(toListWithEnds(page, presentCheckpoint), 200);
  });
}
