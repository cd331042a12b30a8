/** /v1/fine_tuning/jobs: create, list, retrieve, cancel, pause, resume. */
import { createRoute, z } from '@hono/zod-openapi';
import type { Dependencies } from '../../domain/dependencies.ts';
import { cancelJob, getJob, pageOfJobs, pauseJob, resumeJob } from '../../domain/jobs/control.ts';
import { createJob } from '../../domain/jobs/create.ts';
import type { App } from '../context.ts';
import { idFor } from '../idempotency.ts';
import { errors, ok } from '../schemas/error.ts';
import { createJobSchema, jobSchema, presentJob } from '../schemas/fine-tuning-job.ts';
import { cursor, listOf, pageSize, toList } from '../schemas/list.ts';
import { metadataFilter, metadataQuery } from '../schemas/metadata.ts';

const tags = ['Fine-tuning'];
export const jobParams = z.object({ fine_tuning_job_id: z.string() });

const create = createRoute({
  method: 'post',
  path: '/v1/fine_tuning/jobs',
  tags,
  summary: 'Create a fine-tuning job',
  request: { body: { required: true, content: { 'application/json': { schema: createJobSchema } } } },
  responses: { ...ok(jobSchema), ...errors(400, 409, 413, 415, 429) },
});

const list = createRoute({
  method: 'get',
  path: '/v1/fine_tuning/jobs',
  tags,
  summary: 'List jobs',
  request: { query: z.object({ limit: pageSize(1000, 20), after: cursor, metadata: metadataQuery }) },
  responses: { ...ok(listOf(jobSchema)), ...errors(400) },
});

const retrieve = createRoute({
  method: 'get',
  path: '/v1/fine_tuning/jobs/{fine_tuning_job_id}',
  tags,
  summary: 'Retrieve a job',
  request: { params: jobParams },
  responses: { ...ok(jobSchema), ...errors(404) },
});

const cancel = createRoute({
  method: 'post',
  path: '/v1/fine_tuning/jobs/{fine_tuning_job_id}/cancel',
  tags,
  summary: 'Cancel a job',
  request: { params: jobParams },
  responses: { ...ok(jobSchema), ...errors(400, 404) },
});

const pause = createRoute({
  method: 'post',
  path: '/v1/fine_tuning/jobs/{fine_tuning_job_id}/pause',
  tags,
  summary: 'Pause a job: it saves a checkpoint, frees its worker and can be resumed',
  request: { params: jobParams },
  responses: { ...ok(jobSchema), ...errors(400, 404) },
});

const resume = createRoute({
  method: 'post',
  path: '/v1/fine_tuning/jobs/{fine_tuning_job_id}/resume',
  tags,
  summary: 'Resume a paused job',
  request: { params: jobParams },
  responses: { ...ok(jobSchema), ...errors(400, 404, 429) },
});

export function fineTuningJobRoutes(app: App, deps: Dependencies): void {
  app.openapi(create, async (c) => {
    const { projectId, organization } = c.var.identity;
    const job = await createJob(deps, projectId, c.req.valid('json'), idFor(c, 'ftjob-'));
    return c.json(presentJob(job, organization.id), 200);
  });

  app.openapi(list, async (c) => {
    const { projectId, organization } = c.var.identity;
    const query = { ...c.req.valid('query'), metadata: metadataFilter(c.req.queries()) };
    const page = await pageOfJobs(deps, projectId, query);
    return c.json(
      toList(page, (row) => presentJob(row, organization.id)),
      200,
    );
  });

  app.openapi(retrieve, async (c) => {
    const { projectId, organization } = c.var.identity;
    return c.json(
      presentJob(await getJob(deps, projectId, c.req.valid('param').fine_tuning_job_id), organization.id),
      200,
    );
  });

  app.openapi(cancel, async (c) => {
    const { projectId, organization } = c.var.identity;
    const job = await cancelJob(deps, projectId, c.req.valid('param').fine_tuning_job_id);
    return c.json(presentJob(job, organization.id), 200);
  });

  app.openapi(pause, async (c) => {
    const { projectId, organization } = c.var.identity;
    const job = await pauseJob(deps, projectId, c.req.valid('param').fine_tuning_job_id);
    return c.json(presentJob(job, organization.id), 200);
  });

  app.openapi(resume, async (c) => {
    const { projectId, organization } = c.var.identity;
    const job = await resumeJob(deps, projectId, c.req.valid('param').fine_tuning_job_id);
    return c.json(presentJob(job, organization.id), 200);
  });
}
