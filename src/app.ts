/**
 * The API's table of contents: middleware in order, then one line per group of routes. Does not listen.
 */
import { OpenAPIHono } from '@hono/zod-openapi';
import type { Dependencies } from './domain/dependencies.ts';
import { auth } from './http/auth.ts';
import { bodyGuard } from './http/body-guard.ts';
import type { App, AppEnv } from './http/context.ts';
import { conversation } from './http/conversation.ts';
import { crossOrigin } from './http/cors.ts';
import { docsRoutes } from './http/docs.ts';
import { errorHandler } from './http/error-handler.ts';
import { bodylessHead } from './http/head.ts';
import { idempotency } from './http/idempotency.ts';
import { innerRequests } from './http/inner-requests.ts';
import { createMetrics } from './http/metrics.ts';
import { notFound } from './http/not-found.ts';
import { rateLimit } from './http/rate-limit.ts';
import { adapterRoutes } from './http/routes/adapters.ts';
import { adminRoutes } from './http/routes/admin.ts';
import { batchRoutes } from './http/routes/batches.ts';
import { chatCompletionRoutes } from './http/routes/chat-completions.ts';
import { chatStoredRoutes } from './http/routes/chat-stored.ts';
import { completionRoutes } from './http/routes/completions.ts';
import { estimateRoutes } from './http/routes/estimate.ts';
import { fileRoutes } from './http/routes/files.ts';
import { fineTuningEventRoutes } from './http/routes/fine-tuning-events.ts';
import { fineTuningJobRoutes } from './http/routes/fine-tuning-jobs.ts';
import { fineTuningPermissionRoutes } from './http/routes/fine-tuning-permissions.ts';
import { graderRoutes } from './http/routes/graders.ts';
import { healthRoutes } from './http/routes/health.ts';
import { modelRoutes } from './http/routes/models.ts';
import { uploadRoutes } from './http/routes/uploads.ts';
import { webhookRoutes } from './http/routes/webhook-endpoints.ts';
import { toApiError } from './http/validation-error.ts';

/** Routes that read their own body as it streams. */
const STREAMED = new Set(['/v1/files', '/v1/uploads/:upload_id/parts', '/v1/fine_tuning/adapters']);

/** The app over these dependencies; nothing is opened or asked before the first request. */
export function createApp(deps: Dependencies): App {
  const app = new OpenAPIHono<AppEnv>({
    defaultHook: (result) => {
      if (!result.success) throw toApiError(result.error, (result as { data?: unknown }).data);
    },
  });
  const metrics = createMetrics(deps);
  app.openAPIRegistry.registerComponent('securitySchemes', 'bearer', { type: 'http', scheme: 'bearer' });

  app.use(conversation(deps.log, metrics));
  app.use(bodylessHead);
  if (deps.config.corsOrigins.length > 0) app.use('/v1/*', crossOrigin(deps.config.corsOrigins));
  app.use(auth(deps));
  app.use(bodyGuard(deps.config.maxBodyBytes, STREAMED));
  app.use(rateLimit(deps));
  app.use(idempotency(deps));
  app.onError(errorHandler);
  app.notFound(notFound(app));

  healthRoutes(app, deps, metrics);
  fileRoutes(app, deps);
  uploadRoutes(app, deps);
  adapterRoutes(app, deps);
  fineTuningJobRoutes(app, deps);
  estimateRoutes(app, deps);
  fineTuningEventRoutes(app, deps);
  fineTuningPermissionRoutes(app, deps);
  modelRoutes(app, deps);
  chatCompletionRoutes(app, deps);
  chatStoredRoutes(app, deps);
  completionRoutes(app, deps);
  graderRoutes(app, deps, innerRequests(deps, { limited: true }));
  batchRoutes(app, deps);
  adminRoutes(app, deps);
  webhookRoutes(app, deps);
  docsRoutes(app);
  return app;
}
