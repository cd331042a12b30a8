/** Events and checkpoints of a job, newest first. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Dependencies } from '../../domain/dependencies.ts';
import { pageOfCheckpoints, pageOfEvents } from '../../domain/jobs/control.ts';
import type { App } from '../context.ts';
import { checkpointSchema, presentCheckpoint } from '../schemas/checkpoint.ts';
import { errors, ok } from '../schemas/error.ts';
import { eventSchema, presentEvent } from '../schemas/event.ts';
import { cursor, listOf, listWithEnds, pageSize, toList, toListWithEnds } from '../schemas/list.ts';
import { jobParams } from './fine-tuning-jobs.ts';

const tags = ['Fine-tuning'];

const events = createRoute({
  method: 'get',
  path: '/v1/fine_tuning/jobs/{fine_tuning_job_id}/events',
  tags,
  summary: 'List the events of a job',
  request: { params: jobParams, query: z.object({ limit: pageSize(1000, 20), after: cursor }) },
  responses: { ...ok(listOf(eventSchema)), ...errors(400, 404) },
});

const checkpoints = createRoute({
  method: 'get',
  path: '/v1/fine_tuning/jobs/{fine_tuning_job_id}/checkpoints',
  tags,
  summary: 'List the checkpoints of a job',
  request: { params: jobParams, query: z.object({ limit: pageSize(1000, 10), after: cursor }) },
  responses: { ...ok(listWithEnds(checkpointSchema)), ...errors(400, 404) },
});

export function fineTuningEventRoutes(app: App, deps: Dependencies): void {
  app.openapi(events, async (c) => {
    const jobId = c.req.valid('param').fine_tuning_job_id;
    const page = await pageOfEvents(deps, c.var.identity.projectId, jobId, c.req.valid('query'));
    return c.json(toList(page, presentEvent), 200);
  });

  app.openapi(checkpoints, async (c) => {
    const jobId = c.req.valid('param').fine_tuning_job_id;
    const page = await pageOfCheckpoints(deps, c.var.identity.projectId, jobId, c.req.valid('query'));
    return c.json(toListWithEnds(page, presentCheckpoint), 200);
  });
}
