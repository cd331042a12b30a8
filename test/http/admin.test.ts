/** The admin API as the official SDK's admin client speaks it. */
import { eq } from 'drizzle-orm';
import OpenAI from 'openai';
import { beforeAll, describe, expect, it } from 'vitest';
import { jobs } from '../../src/db/schema-jobs.ts';
import { createAdminKey } from '../../src/domain/keys/admin.ts';
import { sweepOnce } from '../../src/domain/sweep/run.ts';
import { useApp } from '../helpers/app.ts';
import { addJob, jobRow } from './rows.ts';

const t = useApp();
let admin: OpenAI.Admin.Organization;
let adminKey: string;
let clientOf: (key: string) => OpenAI;

beforeAll(async () => {
  adminKey = (await createAdminKey(t, t.alice.organization.id, 'root', null)).key;
  const baseURL = await t.serve();
  admin = new OpenAI({ baseURL, adminAPIKey: adminKey, maxRetries: 0 }).admin.organization;
  clientOf = (apiKey) => new OpenAI({ baseURL, apiKey, maxRetries: 0 });
});

const statusOf = (work: Promise<unknown>) =>
  work.then(
    () => 200,
    (error: { status?: number; code?: string }) => `${error.status} ${error.code}`,
  );

describe('projects', () => {
  it('are made, renamed, listed page by page and archived', async () => {
    const project = await admin.projects.create({ name: ' research ' });
    expect(project).toMatchObject({
      object: 'organization.project',
      name: 'research',
      status: 'active',
      archived_at: null,
    });
    expect(project.id).toMatch(/^proj_\w{24}$/);
    expect((await admin.projects.update(project.id, { name: 'lab' })).name).toBe('lab');
    expect(await admin.projects.retrieve(project.id)).toMatchObject({ id: project.id, name: 'lab' });

    const ids: string[] = [];
    for await (const each of admin.projects.list({ limit: 1 })) ids.push(each.id);
    expect(ids).toEqual([t.alice.projectId, project.id]);

    const archived = await admin.projects.archive(project.id);
    expect([archived.status, typeof archived.archived_at]).toEqual(['archived', 'number']);
    expect(await admin.projects.archive(project.id)).toEqual(archived);
    const visible = await admin.projects.list();
    expect(visible.data.map((each) => each.id)).toEqual([t.alice.projectId]);
    expect((await admin.projects.list({ include_archived: true })).data).toHaveLength(2);
    expect(await statusOf(admin.projects.update(project.id, { name: 'x' }))).toBe('400 project_archived');
    expect(await statusOf(admin.projects.archive(t.alice.projectId))).toBe('400 last_project');
    expect((await t.call('GET', '/v1/files')).status).toBe(200);
  });

  it('take their keys with them', async () => {
    const project = await admin.projects.create({ name: 'short-lived' });
    const { json } = await t.call('POST', `/v1/organization/projects/${project.id}/api_keys`, {
      key: adminKey,
      json: { name: 'k' },
    });
    await admin.projects.archive(project.id);
    expect((await t.call('GET', '/v1/files', { key: json.value })).status).toBe(401); // never seen: not cached
    expect(await statusOf(admin.projects.serviceAccounts.create(project.id, { name: 'late' }))).toBe(
      '400 project_archived',
    );
  });

  it('take what waits, rests and runs in them with them', async () => {
    const project = await admin.projects.create({ name: 'busy' });
    const { json } = await t.call('POST', `/v1/organization/projects/${project.id}/api_keys`, {
      key: adminKey,
      json: { name: 'k' },
    });
    const tenant = { ...t.alice, projectId: project.id, key: json.value as string };
    const [waiting, paused, running] = [
      await addJob(t, tenant),
      await addJob(t, tenant),
      await addJob(t, tenant),
    ];
    const others = await addJob(t, t.alice);
    await t.call('POST', `/v1/fine_tuning/jobs/${paused}/pause`, { key: tenant.key });
    const hold = { workerId: 'w', epoch: 1, leaseUntil: new Date(Date.now() + 30_000) };
    await t.database.db.update(jobs).set(hold).where(eq(jobs.id, running));
    await admin.projects.archive(project.id);
    expect((await jobRow(t, waiting)).status).toBe('cancelled');
    expect((await jobRow(t, paused)).status).toBe('cancelled');
    expect(await jobRow(t, running)).toMatchObject({ cancelRequestedAt: expect.any(Date) }); // its trainer obeys
    expect(await jobRow(t, others)).toMatchObject({ status: 'validating_files', cancelRequestedAt: null });

    // As one that was made in the seconds in which a key may still be taken for a live one.
    await t.database.db
      .update(jobs)
      .set({ cancelRequestedAt: null, leaseUntil: null, workerId: null })
      .where(eq(jobs.id, running));
    expect((await sweepOnce(t)).removed).toMatchObject({ 'jobs of archived projects': 1 });
    expect((await jobRow(t, running)).status).toBe('cancelled');
    expect((await jobRow(t, others)).status).toBe('validating_files');
  });

  it('refuse what this server does not have, by name', async () => {
    for (const [param, body] of [
      ['residency', { name: 'x', residency: 'GLOBAL' }],
      ['name', { name: '  ' }],
      ['name', {}],
      ['quotas.max_files', { name: 'x', quotas: { max_files: -1 } }],
      ['nmae', { nmae: 'x', name: 'x' }],
    ] as const) {
      const url = `/v1/organization/projects${param.startsWith('quotas') ? `/${t.alice.projectId}` : ''}`;
      const answer = await t.call('POST', url, { key: adminKey, json: body });
      expect([param, answer.status, answer.json.error.param]).toEqual([param, 400, param]);
    }
  });
});

describe('keys of a project', () => {
  it('are made with scopes and an end, listed without their secret, changed and revoked', async () => {
    const keys = admin.projects.apiKeys;
    const project_id = t.alice.projectId;
    const made = await t.call('POST', `/v1/organization/projects/${project_id}/api_keys`, {
      key: adminKey,
      json: { name: 'reader', scopes: ['api.files.read'], expires_in_seconds: 3600 },
    });
    expect(made.json.value).toMatch(/^sk-lathe-\w{12}-\w{43}$/);
    const { id, value } = made.json;
    const found = await keys.retrieve(id, { project_id });
    expect(found).toMatchObject({
      object: 'organization.project.api_key',
      name: 'reader',
      redacted_value: `sk-lathe-${id}-****`,
      last_used_at: null,
      owner: { type: 'service_account', service_account: { id: project_id, role: 'owner' } },
      owner_project_access: 'active',
    });
    expect(found.expires_at! - found.created_at).toBeGreaterThan(3590);
    expect(JSON.stringify(found)).not.toContain(value.slice(-20));

    expect(await statusOf(clientOf(value).files.list())).toBe(200);
    expect(await statusOf(clientOf(value).models.list())).toBe('403 insufficient_scope');
    expect((await keys.retrieve(id, { project_id })).last_used_at).toBeTypeOf('number');

    const wider = await keys.update(id, { project_id, scopes: ['api.all.read'] });
    expect(wider).toMatchObject({ id, scopes: ['api.all.read'] });
    const listed: string[] = [];
    for await (const each of keys.list(project_id, { limit: 1 })) listed.push(each.id);
    expect(listed).toContain(id);
    expect((await keys.list(project_id, { owner_project_access: 'inactive' })).data).toEqual([]);

    expect(await keys.delete(id, { project_id })).toEqual({
      id,
      object: 'organization.project.api_key.deleted',
      deleted: true,
    });
    expect(await statusOf(keys.retrieve(id, { project_id }))).toBe('404 api_key_not_found');
    expect(await statusOf(keys.delete(id, { project_id }))).toBe('404 api_key_not_found');
  });

  it('cannot be given scopes of an admin key, or unknown ones, or an end in the past', async () => {
    const url = `/v1/organization/projects/${t.alice.projectId}/api_keys`;
    for (const [param, body] of [
      ['scopes', { name: 'x', scopes: ['api.management.read'] }],
      ['scopes', { name: 'x', scopes: ['files'] }],
      ['expires_in_seconds', { name: 'x', expires_in_seconds: 0 }],
    ] as const) {
      const { status, json } = await t.call('POST', url, { key: adminKey, json: body });
      expect([status, json.error.param]).toEqual([400, param]);
    }
  });
});

describe('service accounts', () => {
  it('hold keys that do what their role lets them', async () => {
    const accounts = admin.projects.serviceAccounts;
    const project_id = t.alice.projectId;
    const account = await accounts.create(project_id, { name: 'robot' });
    expect(account).toMatchObject({ object: 'organization.project.service_account', role: 'member' });
    const first = clientOf(account.api_key!.value);
    expect(await statusOf(first.files.list())).toBe(200);
    expect(await statusOf(first.models.delete('ft:x'))).toBe('403 insufficient_scope');

    const owner = await accounts.update(account.id, { project_id, role: 'owner', name: 'android' });
    expect(owner).toMatchObject({ role: 'owner', name: 'android' });
    const key = await accounts.apiKeys.create(account.id, { project_id, scopes: ['api.model.write'] });
    expect(key.object).toBe('organization.project.service_account.api_key');
    expect(await statusOf(clientOf(key.value).models.delete('ft:x'))).toBe('404 model_not_found');
    expect(await admin.projects.apiKeys.retrieve(key.id, { project_id })).toMatchObject({
      name: 'Secret Key',
      owner: { service_account: { id: account.id, name: 'android', role: 'owner' } },
    });

    const bare = await accounts.create(project_id, { name: 'bare', create_service_account_only: true });
    expect(bare.api_key).toBeNull();
    expect((await accounts.list(project_id, { limit: 1 })).data.map((each) => each.id)).toEqual([account.id]);
    await accounts.delete(account.id, { project_id });
    expect(await statusOf(accounts.retrieve(account.id, { project_id }))).toBe(
      '404 service_account_not_found',
    );
    expect(await statusOf(admin.projects.apiKeys.retrieve(key.id, { project_id }))).toBe(
      '404 api_key_not_found',
    );
  });
});

describe('admin keys', () => {
  it('are made, listed, used and revoked', async () => {
    const made = await admin.adminAPIKeys.create({ name: 'second', expires_in_seconds: 60 });
    expect(made.value).toMatch(/^sk-lathe-admin-\w{12}-\w{43}$/);
    const found = await admin.adminAPIKeys.retrieve(made.id);
    expect(found).toMatchObject({ object: 'organization.admin_api_key', name: 'second', last_used_at: null });
    expect(JSON.stringify(found)).not.toContain(made.value.slice(-20));
    const names: (string | null | undefined)[] = [];
    for await (const each of admin.adminAPIKeys.list({ limit: 1, order: 'asc' })) names.push(each.name);
    expect(names).toEqual(['root', 'second']);
    await admin.adminAPIKeys.delete(made.id);
    expect(await statusOf(admin.adminAPIKeys.retrieve(made.id))).toBe('404 api_key_not_found');
    expect((await t.call('GET', '/v1/organization/projects', { key: made.value })).status).toBe(401);
  });

  it('open no project, and project keys no administration', async () => {
    expect(await statusOf(clientOf(adminKey).files.list())).toBe('403 insufficient_scope');
    const foreign = new OpenAI({ baseURL: await t.serve(), adminAPIKey: t.alice.key, maxRetries: 0 });
    expect(await statusOf(foreign.admin.organization.projects.list())).toBe('403 insufficient_scope');
  });
});
