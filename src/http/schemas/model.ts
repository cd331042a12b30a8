/** The Model object. */
import { z } from '@hono/zod-openapi';
import type { ListedModel } from '../../domain/models/registry.ts';
import { toUnix, unixSeconds } from './time.ts';

export const modelSchema = z
  .object({
    id: z.string().openapi({ example: 'ft:lathe-tiny:acme::9ABel2dg' }),
    object: z.literal('model'),
    created: unixSeconds,
    owned_by: z.string(),
  })
  .openapi('Model');

export const modelDeletedSchema = z
  .object({ id: z.string(), object: z.literal('model'), deleted: z.literal(true) })
  .openapi('ModelDeleted');

export function presentModel(model: ListedModel): z.infer<typeof modelSchema> {
  return { id: model.id, object: 'model', created: toUnix(model.created), owned_by: model.ownedBy };
}
