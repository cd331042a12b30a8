/** The objects of the admin API, as OpenAI's SDKs know them; what is ours is said to be so. */
import { z } from '@hono/zod-openapi';
import { integer, strictObject } from '../../domain/jobs/parameters.ts';
import type { AdminKeyRow } from '../../domain/keys/admin-repository.ts';
import { ROLES } from '../../domain/keys/scopes.ts';
import type { ProjectKeyRow } from '../../domain/projects/accounts-repository.ts';
import type { CreatedKey } from '../../domain/projects/project-keys.ts';
import type { ProjectRow, ServiceAccountRow } from '../../domain/projects/repository.ts';
import { toUnix, toUnixOrNull, unixSeconds } from './time.ts';

const YEAR_SECONDS = 366 * 24 * 3600;
export const expiresInSeconds = integer(1, 100 * YEAR_SECONDS);
export const objectName = z.string().trim().min(1).max(200);
const scopeList = z
  .array(z.string().max(100))
  .max(50)
  .openapi({ description: 'Empty means all; ["api.all.read"] is a read-only key.' });

const only = (what: string) =>
  z
    .null({ error: `this server has no ${what}; leave it out.` })
    .optional()
    .openapi({ description: 'Null alone.' });

const quota = integer(0, Number.MAX_SAFE_INTEGER)
  .nullish()
  .openapi({ description: '0 = no limit, null = the default of the server.' });
const quotasSchema = strictObject({
  max_active_jobs: integer(0, 2 ** 31 - 1)
    .nullish()
    .openapi({ description: '0 = no limit, null = the default of the server.' }),
  max_files: integer(0, 2 ** 31 - 1).nullish(),
  max_storage_bytes: quota,
});

export const createProjectSchema = strictObject({
  name: objectName,
  external_key_id: only('external keys'),
  geography: only('data residency'),
  residency: only('data residency'),
}).openapi('CreateProjectRequest');

export const modifyProjectSchema = strictObject({
  name: objectName.nullish(),
  quotas: quotasSchema.nullish(),
  external_key_id: only('external keys'),
  geography: only('data residency'),
}).openapi('ModifyProjectRequest');

export const projectSchema = z
  .object({
    id: z.string().openapi({ example: 'proj_abc123' }),
    object: z.literal('organization.project'),
    name: z.string(),
    created_at: unixSeconds,
    archived_at: unixSeconds.nullable(),
    status: z.enum(['active', 'archived']),
    quotas: z
      .object({
        max_active_jobs: z.int().nullable(),
        max_files: z.int().nullable(),
        max_storage_bytes: z.int().nullable(),
      })
      .openapi({ description: "Lathe's own; null = the default of the server, 0 = no limit." }),
  })
  .openapi('Project');

export function presentProject(row: ProjectRow): z.infer<typeof projectSchema> {
  return {
    id: row.id,
    object: 'organization.project',
    name: row.name,
    created_at: toUnix(row.createdAt),
    archived_at: toUnixOrNull(row.archivedAt),
    status: row.archivedAt ? 'archived' : 'active',
    quotas: {
      max_active_jobs: row.maxActiveJobs,
      max_files: row.maxFiles,
      max_storage_bytes: row.maxStorageBytes,
    },
  };
}

const ownerSchema = z.object({
  type: z.literal('service_account'),
  service_account: z.object({
    id: z.string(),
    name: z.string(),
    created_at: unixSeconds,
    role: z.enum(ROLES),
  }),
});

export const projectKeySchema = z
  .object({
    id: z.string(),
    object: z.literal('organization.project.api_key'),
    name: z.string(),
    redacted_value: z.string(),
    created_at: unixSeconds,
    last_used_at: unixSeconds.nullable(),
    expires_at: unixSeconds.nullable(),
    owner: ownerSchema,
    owner_project_access: z.literal('active'),
    scopes: z.array(z.string()).openapi({ description: "Lathe's own; empty = all." }),
  })
  .openapi('ProjectApiKey');

export const createKeySchema = strictObject({
  name: objectName,
  scopes: scopeList.optional(),
  expires_in_seconds: expiresInSeconds.nullish(),
}).openapi('CreateProjectApiKeyRequest');

export const createAccountKeySchema = strictObject({
  name: objectName.optional(),
  scopes: scopeList.optional(),
  expires_in_seconds: expiresInSeconds.nullish(),
}).openapi('CreateServiceAccountApiKeyRequest');

export const modifyKeySchema = strictObject({
  scopes: scopeList.optional(),
  expires_in_seconds: expiresInSeconds.optional(),
}).openapi('ModifyProjectApiKeyRequest');

const redacted = (id: string, prefix = 'sk-lathe-') => `${prefix}${id}-****`;

/** `project` owns the keys that belong to no service account. */
export function presentProjectKey(row: ProjectKeyRow, project: ProjectRow): z.infer<typeof projectKeySchema> {
  const account = row.account ?? { id: project.id, name: project.name, createdAt: project.createdAt };
  const role = row.account?.role === 'member' ? 'member' : 'owner';
  return {
    id: row.id,
    object: 'organization.project.api_key',
    name: row.name,
    redacted_value: redacted(row.id),
    created_at: toUnix(row.createdAt),
    last_used_at: toUnixOrNull(row.lastUsedAt),
    expires_at: toUnixOrNull(row.expiresAt),
    owner: {
      type: 'service_account',
      service_account: { id: account.id, name: account.name, created_at: toUnix(account.createdAt), role },
    },
    owner_project_access: 'active',
    scopes: row.scopes,
  };
}

export const newProjectKeySchema = projectKeySchema
  .extend({ value: z.string().openapi({ description: 'The key; shown this once.' }) })
  .openapi('CreatedProjectApiKey');

export const accountSchema = z
  .object({
    id: z.string(),
    object: z.literal('organization.project.service_account'),
    name: z.string(),
    role: z.enum(ROLES),
    created_at: unixSeconds,
  })
  .openapi('ServiceAccount');

export const newAccountKeySchema = z
  .object({
    id: z.string(),
    object: z.literal('organization.project.service_account.api_key'),
    name: z.string(),
    value: z.string().openapi({ description: 'The key; shown this once.' }),
    created_at: unixSeconds,
    expires_at: unixSeconds.nullable(),
  })
  .openapi('ServiceAccountApiKey');

export const newAccountSchema = accountSchema
  .extend({ api_key: newAccountKeySchema.nullable() })
  .openapi('CreatedServiceAccount');

export function presentAccount(row: ServiceAccountRow): z.infer<typeof accountSchema> {
  return {
    id: row.id,
    object: 'organization.project.service_account',
    name: row.name,
    role: row.role === 'owner' ? 'owner' : 'member',
    created_at: toUnix(row.createdAt),
  };
}

export function presentAccountKey(key: CreatedKey): z.infer<typeof newAccountKeySchema> {
  return {
    id: key.id,
    object: 'organization.project.service_account.api_key',
    name: key.name,
    value: key.key,
    created_at: toUnix(key.createdAt),
    expires_at: toUnixOrNull(key.expiresAt),
  };
}

export const adminKeySchema = z
  .object({
    id: z.string(),
    object: z.literal('organization.admin_api_key'),
    name: z.string(),
    redacted_value: z.string(),
    created_at: unixSeconds,
    expires_at: unixSeconds.nullable(),
    last_used_at: unixSeconds.nullable(),
    owner: z
      .object({
        id: z.string(),
        object: z.literal('organization'),
        type: z.literal('organization'),
        name: z.string(),
        role: z.literal('owner'),
      })
      .openapi({ description: 'The organization: there are no user accounts.' }),
  })
  .openapi('AdminApiKey');

export const newAdminKeySchema = adminKeySchema
  .extend({ value: z.string().openapi({ description: 'The key; shown this once.' }) })
  .openapi('CreatedAdminApiKey');

export function presentAdminKey(
  row: AdminKeyRow,
  organization: { id: string; slug: string },
): z.infer<typeof adminKeySchema> {
  return {
    id: row.id,
    object: 'organization.admin_api_key',
    name: row.name,
    redacted_value: redacted(row.id, 'sk-lathe-admin-'),
    created_at: toUnix(row.createdAt),
    expires_at: toUnixOrNull(row.expiresAt),
    last_used_at: toUnixOrNull(row.lastUsedAt),
    owner: {
      id: organization.id,
      object: 'organization',
      type: 'organization',
      name: organization.slug,
      role: 'owner',
    },
  };
}

/** `{ id, object, deleted: true }`. */
export const deletedSchema = <O extends string>(object: O) =>
  z.object({ id: z.string(), object: z.literal(object), deleted: z.literal(true) });
