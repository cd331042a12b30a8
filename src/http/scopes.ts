/**
 * Which scope each route asks for: one line per route, default deny. A route under /v1 that is not in here is refused
 * and fails test/http/scopes.test.ts. Patterns are written as the router has them.
 */
import { allows, type Grant, type Scope } from '../domain/keys/scopes.ts';
import { insufficientScope } from '../errors.ts';

interface RouteRule {
  /** The scope that a key needs. */
  scope: Scope;
  /** A POST with a JSON body that creates something: honours `Idempotency-Key` (http/idempotency.ts). */
  idempotent?: true;
  /** Spends the project's requests and tokens per minute (http/rate-limit.ts); the body names `model`. */
  rateLimited?: true;
}

export const ROUTE_RULES: Readonly<Record<string, RouteRule>> = {
  'GET /metrics': { scope: 'api.management.read' },

  'POST /v1/files': { scope: 'api.files.write' },
  'GET /v1/files': { scope: 'api.files.read' },
  'GET /v1/files/:file_id': { scope: 'api.files.read' },
  'GET /v1/files/:file_id/content': { scope: 'api.files.read' },
  'DELETE /v1/files/:file_id': { scope: 'api.files.write' },

  'POST /v1/uploads': { scope: 'api.files.write', idempotent: true },
  'POST /v1/uploads/:upload_id/parts': { scope: 'api.files.write' },
  'POST /v1/uploads/:upload_id/complete': { scope: 'api.files.write' },
  'POST /v1/uploads/:upload_id/cancel': { scope: 'api.files.write' },

  'POST /v1/fine_tuning/jobs': { scope: 'api.fine_tuning.jobs.write', idempotent: true },
  'GET /v1/fine_tuning/jobs': { scope: 'api.fine_tuning.jobs.read' },
  'GET /v1/fine_tuning/jobs/:fine_tuning_job_id': { scope: 'api.fine_tuning.jobs.read' },
  'GET /v1/fine_tuning/jobs/:fine_tuning_job_id/events': { scope: 'api.fine_tuning.jobs.read' },
  'GET /v1/fine_tuning/jobs/:fine_tuning_job_id/checkpoints': { scope: 'api.fine_tuning.jobs.read' },
  'POST /v1/fine_tuning/jobs/:fine_tuning_job_id/cancel': { scope: 'api.fine_tuning.jobs.write' },
  'POST /v1/fine_tuning/jobs/:fine_tuning_job_id/pause': { scope: 'api.fine_tuning.jobs.write' },
  'POST /v1/fine_tuning/jobs/:fine_tuning_job_id/resume': { scope: 'api.fine_tuning.jobs.write' },
  'GET /v1/fine_tuning/checkpoints/:fine_tuned_model_checkpoint{.+}/permissions': {
    scope: 'api.fine_tuning.checkpoints.read',
  },
  'POST /v1/fine_tuning/checkpoints/:fine_tuned_model_checkpoint{.+}/permissions': {
    scope: 'api.fine_tuning.checkpoints.write',
  },
  'DELETE /v1/fine_tuning/checkpoints/:fine_tuned_model_checkpoint{.+}/permissions/:permission_id': {
    scope: 'api.fine_tuning.checkpoints.write',
  },
  'POST /v1/fine_tuning/alpha/graders/run': { scope: 'api.fine_tuning.jobs.write' },
  'POST /v1/fine_tuning/alpha/graders/validate': { scope: 'api.fine_tuning.jobs.write' },
  'POST /v1/fine_tuning/adapters': { scope: 'api.model.write' },
  'GET /v1/fine_tuning/adapters/:model{.+}': { scope: 'api.model.read' },
  'POST /v1/fine_tuning/exports': { scope: 'api.model.write', idempotent: true },
  'GET /v1/fine_tuning/exports': { scope: 'api.model.read' },
  'GET /v1/fine_tuning/exports/:export_id': { scope: 'api.model.read' },
  'GET /v1/fine_tuning/exports/:export_id/content': { scope: 'api.model.read' },
  'DELETE /v1/fine_tuning/exports/:export_id': { scope: 'api.model.write' },
  'POST /v1/fine_tuning/estimate': { scope: 'api.fine_tuning.jobs.read', rateLimited: true },
  'POST /v1/fine_tuning/validate': { scope: 'api.fine_tuning.jobs.read', rateLimited: true },
  'POST /v1/fine_tuning/preview': { scope: 'api.files.read', rateLimited: true },

  'GET /v1/models': { scope: 'api.model.read' },
  'GET /v1/models/:model{.+}': { scope: 'api.model.read' },
  'DELETE /v1/models/:model{.+}': { scope: 'api.model.write' },

  'POST /v1/chat/completions': { scope: 'api.model.request', rateLimited: true },
  'GET /v1/chat/completions': { scope: 'api.chat.completions.read' },
  'GET /v1/chat/completions/:completion_id': { scope: 'api.chat.completions.read' },
  'POST /v1/chat/completions/:completion_id': { scope: 'api.chat.completions.write' },
  'DELETE /v1/chat/completions/:completion_id': { scope: 'api.chat.completions.write' },
  'GET /v1/chat/completions/:completion_id/messages': { scope: 'api.chat.completions.read' },
  'POST /v1/completions': { scope: 'api.model.request', rateLimited: true },

  'POST /v1/batches': { scope: 'api.batch.write', idempotent: true },
  'GET /v1/batches': { scope: 'api.batch.read' },
  'GET /v1/batches/:batch_id': { scope: 'api.batch.read' },
  'POST /v1/batches/:batch_id/cancel': { scope: 'api.batch.write' },

  'POST /v1/webhook_endpoints': { scope: 'api.webhooks.write' },
  'GET /v1/webhook_endpoints': { scope: 'api.webhooks.read' },
  'GET /v1/webhook_endpoints/:webhook_endpoint_id': { scope: 'api.webhooks.read' },
  'POST /v1/webhook_endpoints/:webhook_endpoint_id': { scope: 'api.webhooks.write' },
  'DELETE /v1/webhook_endpoints/:webhook_endpoint_id': { scope: 'api.webhooks.write' },
  'POST /v1/webhook_endpoints/:webhook_endpoint_id/rotate_secret': { scope: 'api.webhooks.write' },
  'POST /v1/webhook_endpoints/:webhook_endpoint_id/test': { scope: 'api.webhooks.write' },
  'GET /v1/webhook_event_types': { scope: 'api.webhooks.read' },

  'POST /v1/organization/projects': { scope: 'api.management.write', idempotent: true },
  'GET /v1/organization/projects': { scope: 'api.management.read' },
  'GET /v1/organization/projects/:project_id': { scope: 'api.management.read' },
  'POST /v1/organization/projects/:project_id': { scope: 'api.management.write' },
  'POST /v1/organization/projects/:project_id/archive': { scope: 'api.management.write' },
  'GET /v1/organization/projects/:project_id/rate_limits': { scope: 'api.management.read' },
  'POST /v1/organization/projects/:project_id/rate_limits/:rate_limit_id{.+}': {
    scope: 'api.management.write',
  },
  'POST /v1/organization/projects/:project_id/api_keys': { scope: 'api.management.write' },
  'GET /v1/organization/projects/:project_id/api_keys': { scope: 'api.management.read' },
  'GET /v1/organization/projects/:project_id/api_keys/:api_key_id': { scope: 'api.management.read' },
  'POST /v1/organization/projects/:project_id/api_keys/:api_key_id': { scope: 'api.management.write' },
  'DELETE /v1/organization/projects/:project_id/api_keys/:api_key_id': { scope: 'api.management.write' },
  'POST /v1/organization/projects/:project_id/service_accounts': { scope: 'api.management.write' },
  'GET /v1/organization/projects/:project_id/service_accounts': { scope: 'api.management.read' },
  'GET /v1/organization/projects/:project_id/service_accounts/:service_account_id': {
    scope: 'api.management.read',
  },
  'POST /v1/organization/projects/:project_id/service_accounts/:service_account_id': {
    scope: 'api.management.write',
  },
  'DELETE /v1/organization/projects/:project_id/service_accounts/:service_account_id': {
    scope: 'api.management.write',
  },
  'POST /v1/organization/projects/:project_id/service_accounts/:service_account_id/api_keys': {
    scope: 'api.management.write',
  },
  'POST /v1/organization/admin_api_keys': { scope: 'api.management.write' },
  'GET /v1/organization/admin_api_keys': { scope: 'api.management.read' },
  'GET /v1/organization/admin_api_keys/:key_id': { scope: 'api.management.read' },
  'DELETE /v1/organization/admin_api_keys/:key_id': { scope: 'api.management.write' },
};

/** The rule of a route; HEAD is answered by GET's. Undefined for a route that nobody has listed. */
export function ruleOf(method: string, route: string): RouteRule | undefined {
  return ROUTE_RULES[`${method === 'HEAD' ? 'GET' : method} ${route}`];
}

/** Throws ApiError 403 unless the key's grant covers what the route asks for. */
export function requireScope(grant: Grant, method: string, route: string): void {
  const rule = ruleOf(method, route);
  if (!rule) throw insufficientScope(`none (no key may use ${method} ${route})`);
  if (!allows(grant, rule.scope)) throw insufficientScope(rule.scope);
}
