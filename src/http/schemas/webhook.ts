/** Webhook endpoints: what is asked, and how a row becomes an answer. The secret is in the answers that make one. */
import { z } from '@hono/zod-openapi';
import { strictObject } from '../../domain/jobs/parameters.ts';
import type { Endpoint, EndpointWithSecret } from '../../domain/webhooks/endpoints.ts';
import { WEBHOOK_EVENT_TYPES } from '../../domain/webhooks/event-types.ts';
import { hintOf } from '../../domain/webhooks/signature.ts';
import { toUnix, unixSeconds } from './time.ts';

const eventType = z.enum(WEBHOOK_EVENT_TYPES);
const fields = {
  name: z.string().min(1).max(256),
  url: z.string().min(1).max(2048).openapi({ format: 'uri', example: 'https://example.com/hooks/lathe' }),
  event_types: z.array(eventType).min(1).max(64),
};

export const createWebhookSchema = strictObject(fields).openapi('CreateWebhookEndpointRequest');
export const updateWebhookSchema = strictObject({
  name: fields.name.optional(),
  url: fields.url.optional(),
  event_types: fields.event_types.optional(),
}).openapi('UpdateWebhookEndpointRequest');
export const rotateSecretSchema = strictObject({
  keep_old_secret_active_for_24_hours: z.boolean().optional(),
}).openapi('RotateWebhookSecretRequest');
export const testWebhookSchema = strictObject({ event_type: eventType }).openapi(
  'TestWebhookEndpointRequest',
);

export const webhookSchema = z
  .object({
    object: z.literal('webhook_endpoint'),
    id: z.string().openapi({ example: 'whe_abc123' }),
    created_at: unixSeconds,
    updated_at: unixSeconds,
    name: z.string(),
    url: z.string(),
    event_types: z.array(z.string()),
    signing_secret_hint: z.string().nullable(),
    status: z.enum(['enabled', 'disabled']).openapi({
      description: 'disabled: deliveries failed for too long. Any change of the endpoint enables it again.',
    }),
  })
  .openapi('WebhookEndpoint');

export const webhookWithSecretSchema = webhookSchema
  .extend({ signing_secret: z.string().openapi({ description: 'Shown this once.' }) })
  .openapi('WebhookEndpointWithSecret');

export const webhookDeletedSchema = z.object({
  id: z.string(),
  object: z.literal('webhook_endpoint.deleted'),
  deleted: z.literal(true),
});

export const webhookTestSchema = z.object({
  object: z.literal('webhook_endpoint.test'),
  webhook_endpoint_id: z.string(),
  event_type: z.string(),
  status_code: z.int(),
  success: z.literal(true),
});

export function presentWebhook(row: Endpoint): z.infer<typeof webhookSchema> {
  return {
    object: 'webhook_endpoint',
    id: row.id,
    created_at: toUnix(row.createdAt),
    updated_at: toUnix(row.updatedAt),
    name: row.name,
    url: row.url,
    event_types: row.eventTypes,
    signing_secret_hint: row.secret === null ? null : hintOf(row.secret),
    status: row.disabledAt === null ? 'enabled' : 'disabled',
  };
}

export const presentWebhookWithSecret = (row: EndpointWithSecret) => ({
  ...presentWebhook(row),
  signing_secret: row.secret,
});
