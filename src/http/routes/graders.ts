/** /v1/fine_tuning/alpha/graders: run a grader on one sample, or check one. */
import { createRoute } from '@hono/zod-openapi';
import type { AnswerRequest } from '../../domain/answer-request.ts';
import type { Dependencies } from '../../domain/dependencies.ts';
import { runGrader, validateGrader } from '../../domain/graders/run.ts';
import type { App } from '../context.ts';
import { errors, ok } from '../schemas/error.ts';
import {
  graderRunSchema,
  presentRun,
  runGraderSchema,
  toGrader,
  validatedSchema,
  validateGraderSchema,
} from '../schemas/grader.ts';

const tags = ['Graders'];

const run = createRoute({
  method: 'post',
  path: '/v1/fine_tuning/alpha/graders/run',
  tags,
  summary: 'Run a grader',
  request: { body: { required: true, content: { 'application/json': { schema: runGraderSchema } } } },
  responses: { ...ok(graderRunSchema), ...errors(400, 404, 413, 415) },
});

const validate = createRoute({
  method: 'post',
  path: '/v1/fine_tuning/alpha/graders/validate',
  tags,
  summary: 'Validate a grader',
  request: { body: { required: true, content: { 'application/json': { schema: validateGraderSchema } } } },
  responses: { ...ok(validatedSchema), ...errors(400, 404, 413, 415) },
});

/** `ask` answers the requests of model graders. */
export function graderRoutes(app: App, deps: Dependencies, ask: AnswerRequest): void {
  app.openapi(run, async (c) => {
    const { grader, item, model_sample } = c.req.valid('json');
    const request = { grader: toGrader(grader), item: item ?? {}, modelSample: model_sample };
    const outcome = await runGrader({ ...deps, ask }, c.var.identity, request, c.req.raw.signal);
    return c.json(presentRun(outcome), 200);
  });

  app.openapi(validate, async (c) => {
    const grader = toGrader(c.req.valid('json').grader);
    await validateGrader(deps, c.var.identity.projectId, grader);
    return c.json({ grader: { ...grader } }, 200);
  });
}
