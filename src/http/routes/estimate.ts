/** /v1/fine_tuning/estimate, /validate and /preview: what a job would do, without a job. */
import { createRoute } from '@hono/zod-openapi';
import type { Dependencies } from '../../domain/dependencies.ts';
import { estimateJob } from '../../domain/estimate/estimate.ts';
import { previewRows, validateFiles } from '../../domain/estimate/validate.ts';
import type { App } from '../context.ts';
import { errors, ok } from '../schemas/error.ts';
import {
  estimateSchema,
  presentEstimate,
  presentPreview,
  presentValidation,
  previewRequestSchema,
  previewSchema,
  validationSchema,
} from '../schemas/estimate.ts';
import { createJobSchema } from '../schemas/fine-tuning-job.ts';

const tags = ['Fine-tuning'];
const jobBody = { required: true, content: { 'application/json': { schema: createJobSchema } } };

const estimate = createRoute({
  method: 'post',
  path: '/v1/fine_tuning/estimate',
  tags,
  summary: 'Estimate a job',
  description:
    'Takes the body of a job creation and says what the job would take: tokens, steps, memory, time, and whether it fits.',
  request: { body: jobBody },
  responses: { ...ok(estimateSchema), ...errors(400, 413, 415, 429) },
});

const validate = createRoute({
  method: 'post',
  path: '/v1/fine_tuning/validate',
  tags,
  summary: 'Validate the files of a job',
  description: 'Takes the body of a job creation and checks its files as the job would.',
  request: { body: jobBody },
  responses: { ...ok(validationSchema), ...errors(400, 413, 415, 429) },
});

const preview = createRoute({
  method: 'post',
  path: '/v1/fine_tuning/preview',
  tags,
  summary: 'Show what a job would learn',
  description: 'Takes the body of a job creation and shows the tokens of single rows, each learned or not.',
  request: { body: { required: true, content: { 'application/json': { schema: previewRequestSchema } } } },
  responses: { ...ok(previewSchema), ...errors(400, 413, 415, 429) },
});

export function estimateRoutes(app: App, deps: Dependencies): void {
  app.openapi(estimate, async (c) => {
    const { projectId } = c.var.identity;
    const found = await estimateJob(deps, projectId, c.req.valid('json'), c.req.raw.signal);
    return c.json(presentEstimate(found), 200);
  });

  app.openapi(validate, async (c) => {
    const { projectId } = c.var.identity;
    const files = await validateFiles(deps, projectId, c.req.valid('json'), c.req.raw.signal);
    return c.json(presentValidation(files), 200);
  });

  app.openapi(preview, async (c) => {
    const { line, count, ...request } = c.req.valid('json');
    const { projectId } = c.var.identity;
    const rows = await previewRows(deps, projectId, request, { line, count }, c.req.raw.signal);
    return c.json(presentPreview(rows), 200);
  });
}
