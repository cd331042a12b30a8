/** Rows that the API only reads: what trainers would have written. */
import { createHash } from 'node:crypto';
import { eq } from 'drizzle-orm';
import { jobCheckpoints, jobs, tunedModels } from '../../src/db/schema-jobs.ts';
import { storeCompletion } from '../../src/domain/chat/stored.ts';
import { newId } from '../../src/ids.ts';
import { BASE_MODEL, TEN_ROWS, type Tenant, type TestApp } from '../helpers/app.ts';

/** A job of the tenant, made through the API. */
export async function addJob(t: TestApp, tenant: Tenant, fields: object = {}): Promise<string> {
  const training_file = await t.upload(TEN_ROWS, { key: tenant.key });
  const answer = await t.call('POST', '/v1/fine_tuning/jobs', {
    key: tenant.key,
    json: { model: BASE_MODEL, training_file, ...fields },
  });
  if (answer.status !== 200) throw new Error(`creating a job answered ${answer.status}: ${answer.text}`);
  return answer.json.id;
}

/** A batch of the tenant that nobody runs. */
export async function addBatch(t: TestApp, tenant: Tenant): Promise<string> {
  const body = { model: BASE_MODEL, messages: [{ role: 'user', content: 'Hi' }] };
  const line = JSON.stringify({ custom_id: 'a', method: 'POST', url: '/v1/chat/completions', body });
  const input_file_id = await t.upload(line, { purpose: 'batch', filename: 'in.jsonl', key: tenant.key });
  const json = { input_file_id, endpoint: '/v1/chat/completions', completion_window: '24h' };
  const answer = await t.call('POST', '/v1/batches', { key: tenant.key, json });
  if (answer.status !== 200) throw new Error(`creating a batch answered ${answer.status}: ${answer.text}`);
  return answer.json.id;
}

export async function jobRow(t: TestApp, id: string) {
  const [row] = await t.database.db.select().from(jobs).where(eq(jobs.id, id));
  return row!;
}

/** A published model of the tenant with the job it came from. */
export async function addTunedModel(
  t: TestApp,
  tenant: Tenant,
  { tail, step = 10, checkpoint = false }: { tail: string; step?: number; checkpoint?: boolean },
) {
  const jobId = await addJob(t, tenant);
  const digest = createHash('sha256').update(tail).digest('hex');
  const row = {
    id: `ft:${BASE_MODEL}:${tenant.organization.slug}::${tail}${checkpoint ? `:ckpt-step-${step}` : ''}`,
    projectId: tenant.projectId,
    jobId,
    baseModel: BASE_MODEL,
    kind: 'adapter',
    ownedBy: tenant.organization.slug,
    step,
    isCheckpoint: checkpoint,
    storagePrefix: `projects/${tenant.projectId}/jobs/${jobId}/e1/model`,
    files: [{ name: 'adapter_model.safetensors', bytes: 10, sha256: digest }],
    digest,
  };
  await t.database.db.insert(tunedModels).values(row);
  return row;
}

/** A webhook endpoint of the tenant that hears of every end of a job. */
export async function addWebhook(t: TestApp, tenant: Tenant): Promise<string> {
  const answer = await t.call('POST', '/v1/webhook_endpoints', {
    key: tenant.key,
    json: { name: 'hook', url: 'https://example.com/hook', event_types: ['fine_tuning.job.succeeded'] },
  });
  if (answer.status !== 200) throw new Error(`creating a webhook answered ${answer.status}: ${answer.text}`);
  return answer.json.id;
}

/** A checkpoint that users see, or with `modelName` null one that only a resume sees. */
export async function addCheckpoint(
  t: TestApp,
  tenant: Tenant,
  jobId: string,
  step: number,
  modelName: string | null,
) {
  const id = newId('ftckpt_');
  await t.database.db.insert(jobCheckpoints).values({
    id,
    projectId: tenant.projectId,
    jobId,
    epoch: 1,
    step,
    kind: modelName ? 'epoch' : 'state',
    modelName,
    storagePrefix: `projects/${tenant.projectId}/jobs/${jobId}/e1/ckpt-${step}`,
    files: [],
    digest: '0'.repeat(64),
    metrics: { step, train_loss: 0.5 },
  });
  return id;
}

/** A pending upload of the tenant. */
export async function addUpload(t: TestApp, tenant: Tenant): Promise<string> {
  const json = { filename: 'a.txt', purpose: 'user_data', bytes: 3, mime_type: 'text/plain' };
  return (await t.call('POST', '/v1/uploads', { key: tenant.key, json })).json.id;
}

/** An export of the tenant's model that waits for a worker. */
export async function addExport(t: TestApp, tenant: Tenant, model: string): Promise<string> {
  return (await t.call('POST', '/v1/fine_tuning/exports', { key: tenant.key, json: { model } })).json.id;
}

/** A stored chat completion; `metadata` and `model` are what lists filter by. */
export async function addChatCompletion(
  { database }: Pick<TestApp, 'database'>,
  { projectId }: Tenant,
  fields: { metadata?: Record<string, string> | null; model?: string; choices?: object[] } = {},
): Promise<string> {
  const id = newId('chatcmpl-');
  const { metadata = null, model = BASE_MODEL, choices = [] } = fields;
  const kept = { object: 'chat.completion', created: 1, choices, usage: null, request_id: 'req_x' };
  await storeCompletion({ database }, projectId, {
    id,
    model,
    metadata,
    request: { messages: [] },
    completion: { id, model, ...kept },
  });
  return id;
}
