/** What tests of adapters share: base models, workers for their operations in this process, and the two ways of bytes. */
import path from 'node:path';
import { baseModels, workers } from '../../src/db/schema.ts';
import { newId } from '../../src/ids.ts';
import { baseDigestFolder, digestBase } from '../../workers/base-digest.ts';
import { startOperations } from '../../workers/operations/operations.ts';
import type { TestApp } from '../helpers/app.ts';
import { CONTEXT } from '../inference/tiny-worker.ts';

export const CONFIG = 'adapter_config.json';
export const WEIGHTS = 'adapter_model.safetensors';

export type FormFile = [name: string, content: Buffer | string];

export async function addBase(t: TestApp, id: string, location: string): Promise<void> {
  await t.database.db.insert(baseModels).values({
    ...{ id, location, family: 'qwen3', parameterCount: 1, contextLength: CONTEXT, config: {} },
  });
}

/** Does the operations of a base model here. Its row says for long that it serves, too; nobody asks it to. */
export async function serveOperations(t: TestApp, id: string, location: string, home: string) {
  const heartbeatAt = new Date(Date.now() + 3_600_000);
  const row = {
    id: newId('worker_'),
    kind: 'inference',
    url: 'http://127.0.0.1:9',
    baseModel: id,
    heartbeatAt,
  };
  await t.database.db.insert(workers).values({ ...row, device: 'cpu', host: 'h', pid: 1, state: 'ready' });
  const ownHome = path.join(home, `operations-${id}`);
  const { digest } = await digestBase(location, baseDigestFolder(ownHome), () => undefined);
  return startOperations({
    ...t,
    config: { ...t.config, home: ownHome, pollMilliseconds: 50, threads: 1 },
    baseModel: { id, location },
    baseDigest: digest,
    deadlineMs: { import: 5_000, export: 60_000 },
  });
}

/** Imports an adapter; the form is whole before it is sent, as a refusal may come before its end. */
export async function bringIn(
  t: TestApp,
  files: FormFile[],
  fields: Record<string, string> = { base_model: 'tiny' },
) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  for (const [name, content] of files) form.append('file', new File([content], name));
  const encoded = new Response(form);
  const headers = { 'content-type': encoded.headers.get('content-type') ?? '' };
  return t.call('POST', '/v1/fine_tuning/adapters', { body: await encoded.arrayBuffer(), headers });
}

export async function bytesOf(t: TestApp, url: string, headers: Record<string, string> = {}) {
  const authorization = `Bearer ${t.alice.key}`;
  const response = await t.app.request(url, { headers: { authorization, ...headers } });
  const bytes = Buffer.from(await response.arrayBuffer());
  return { status: response.status, headers: response.headers, bytes };
}
