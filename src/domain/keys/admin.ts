/**
 * Admin keys: they open the admin API of their organization and no project. The first one is made on the command line
 * (`lathe keys create NAME --admin`).
 */
import { invalidValue, noSuchApiKey } from '../../errors.ts';
import type { Dependencies } from '../dependencies.ts';
import {
  type AdminKeyRow,
  adminKeyExisted,
  findAdminKey,
  insertAdminKey,
  listAdminKeys,
  revokeAdminKeyRow,
} from './admin-repository.ts';
import { newSecret } from './create.ts';

type Deps = Pick<Dependencies, 'database'>;

/** The stored key and its text (`sk-lathe-admin-…`), which is never seen again. */
export async function createAdminKey(
  { database }: Deps,
  organizationId: string,
  name: string,
  expiresAt: Date | null,
): Promise<{ row: AdminKeyRow; key: string }> {
  const { id, key, secretSha256 } = newSecret('sk-lathe-admin-');
  return {
    row: await insertAdminKey(database.db, { id, organizationId, name, secretSha256, expiresAt }),
    key,
  };
}

/** The key, or ApiError 404; revoked ones are as good as unknown. */
export async function getAdminKey(
  { database }: Deps,
  organizationId: string,
  id: string,
): Promise<AdminKeyRow> {
  const key = await findAdminKey(database.db, organizationId, id);
  if (!key) throw noSuchApiKey(id);
  return key;
}

export async function pageOfAdminKeys(
  { database }: Deps,
  organizationId: string,
  query: Parameters<typeof listAdminKeys>[2],
) {
  if (query.after !== undefined && !(await adminKeyExisted(database.db, organizationId, query.after))) {
    throw invalidValue('after', `no key '${query.after}' to continue from.`);
  }
  return listAdminKeys(database.db, organizationId, query);
}

/** Revokes the key; refused everywhere within 5 s. */
export async function deleteAdminKey({ database }: Deps, organizationId: string, id: string): Promise<void> {
  if (!(await revokeAdminKeyRow(database.db, organizationId, id))) throw noSuchApiKey(id);
}
