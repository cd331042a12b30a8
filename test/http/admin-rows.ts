/** What an administrator of a tenant's organization has made, through the admin API. */
import { createAdminKey } from '../../src/domain/keys/admin.ts';
import { BASE_MODEL, type Tenant, type TestApp } from '../helpers/app.ts';

/** A new admin key of the tenant's organization. */
export async function adminKeyOf(t: TestApp, tenant: Tenant): Promise<{ id: string; key: string }> {
  const { row, key } = await createAdminKey(t, tenant.organization.id, 'root', null);
  return { id: row.id, key };
}

/** One of everything that the admin API names by an id; `model` is shared with a second project. */
export async function addAdminObjects(t: TestApp, tenant: Tenant, key: string, model: string) {
  const post = async (path: string, json: object): Promise<string> => {
    const answer = await t.call('POST', `/v1/${path}`, { key, json });
    if (answer.status !== 200) throw new Error(`POST ${path} answered ${answer.status}: ${answer.text}`);
    return answer.json.id ?? answer.json.data[0].id;
  };
  const project = `organization/projects/${tenant.projectId}`;
  const second = await post('organization/projects', { name: 'second' });
  return {
    project_id: tenant.projectId,
    api_key_id: await post(`${project}/api_keys`, { name: 'k' }),
    service_account_id: await post(`${project}/service_accounts`, { name: 'robot' }),
    key_id: await post('organization/admin_api_keys', { name: 'other' }),
    rate_limit_id: `rl-${BASE_MODEL}`,
    permission_id: await post(`fine_tuning/checkpoints/${model}/permissions`, { project_ids: [second] }),
  };
}
