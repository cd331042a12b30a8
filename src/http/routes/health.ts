/** /healthz (the process answers), /readyz (what it needs answers too), /metrics. */
import { createRoute, z } from '@hono/zod-openapi';
import { checkReadiness } from '../../domain/chat/readiness.ts';
import type { Dependencies } from '../../domain/dependencies.ts';
import { type App, logOf } from '../context.ts';
import type { Metrics } from '../metrics.ts';
import { errors, ok } from '../schemas/error.ts';

const tags = ['Operation'];

const health = createRoute({
  method: 'get',
  path: '/healthz',
  tags,
  security: [],
  summary: 'The process is alive',
  responses: ok(z.object({ status: z.literal('ok') })),
});

const readinessSchema = z.object({
  status: z.enum(['ready', 'not_ready']),
  database: z.boolean(),
  storage: z.boolean(),
  workers: z.object({ trainer: z.int(), inference: z.int() }),
});

const ready = createRoute({
  method: 'get',
  path: '/readyz',
  tags,
  security: [],
  summary: 'Database, storage and a worker answer',
  responses: {
    ...ok(readinessSchema),
    503: {
      description: 'Something is missing',
      content: { 'application/json': { schema: readinessSchema } },
    },
  },
});

const figures = createRoute({
  method: 'get',
  path: '/metrics',
  tags,
  summary: 'Figures for Prometheus; no key needed from this machine, an admin key from others',
  responses: {
    200: { description: 'Text exposition', content: { 'text/plain': { schema: z.string() } } },
    ...errors(),
  },
});

export function healthRoutes(app: App, deps: Dependencies, metrics: Metrics): void {
  app.openapi(health, (c) => c.json({ status: 'ok' as const }, 200));

  app.openapi(ready, async (c) => {
    const readiness = await checkReadiness({ ...deps, log: logOf(c) });
    return readiness.status === 'ready' ? c.json(readiness, 200) : c.json(readiness, 503);
  });

  app.openapi(figures, async (c) => {
    const { body, contentType } = await metrics.expose();
    return c.body(body, 200, { 'content-type': contentType }) as never;
  });
}
