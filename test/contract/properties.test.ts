/**
 * Requests generated from the OpenAPI document with a seed: whatever is sent, the answer is one that the document
 * describes, never a 5xx, and tells nothing of the inside. LATHE_PROPERTY_CASES and LATHE_PROPERTY_SEED ask for more
 * and for others.
 */
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tunedModels } from '../../src/db/schema-jobs.ts';
import { createAdminKey } from '../../src/domain/keys/admin.ts';
import { openapiDocument } from '../../src/http/docs.ts';
import type { WorkerError } from '../../src/inference/protocol.ts';
import { type Answer, BASE_MODEL, TEN_ROWS, useApp } from '../helpers/app.ts';
import { addBatch, addTunedModel } from '../http/rows.ts';
import { answerOf, ScriptedWorker } from '../http/scripted-worker.ts';
import { type GeneratedRequest, type OpenApi, Requests } from './generate-requests.ts';

const CASES = Number(process.env.LATHE_PROPERTY_CASES ?? 700);
const SEED = Number(process.env.LATHE_PROPERTY_SEED ?? 20_261_121);
/** What an answer must never show: stacks, files of the server, statements, drivers. */
const INSIDE =
  /\bat \S+ \(|\.ts:\d|node_modules|\/(home|root|tmp|var|usr)\/|\b(select|insert into|update) .{0,80}(from|values|set) |drizzle|postgres|ECONN|TypeError|RangeError/i;
/** Answers that never end, or that are not made from the document. */
const skipped = (path: string) => !path.startsWith('/v1/') || path.endsWith('/stream');

/** What the scripted worker says to everything but a generation. */
const NOTHING_ELSE: WorkerError = {
  ...{ status: 400, type: 'invalid_request_error', code: 'invalid_value', param: 'training_file' },
  message: 'Not here.',
};

const t = useApp({ maxFileBytes: 200_000 });
let worker: ScriptedWorker;
let requests: Requests;
let document: OpenApi;
let adminKey: string;

beforeAll(async () => {
  worker = await ScriptedWorker.start(t.database);
  worker.script = (request) =>
    'sampling' in request ? answerOf(['{"a":', '1}'], { n: request.sampling.n }) : NOTHING_ELSE;
  adminKey = (await createAdminKey(t, t.alice.organization.id, 'root', null)).key;
  document = openapiDocument(t.app) as unknown as OpenApi;
  const files = [
    await t.upload(TEN_ROWS),
    await t.upload(TEN_ROWS),
    await t.upload('x', { purpose: 'evals', filename: 'x.txt' }),
  ];
  const tuned = await addTunedModel(t, t.alice, { tail: 'property' });
  await giveFiles(tuned);
  const models = [BASE_MODEL, BASE_MODEL, tuned.id, 'nobody'];
  const batches = [await addBatch(t, t.alice)];
  requests = new Requests(
    document,
    SEED,
    {
      file_id: files,
      training_file: files,
      validation_file: files,
      input_file_id: files,
      fine_tuning_job_id: [tuned.jobId],
      model: models,
      batch_id: batches,
    },
    skipped,
  );
});
afterAll(() => worker?.stop());

/** Files behind a model's row, so that it can be read and downloaded. */
async function giveFiles({ id, storagePrefix }: { id: string; storagePrefix: string }): Promise<void> {
  const config = { peft_type: 'LORA', r: 4, lora_alpha: 8, target_modules: ['q_proj', 'v_proj'] };
  const bodies = {
    'adapter_config.json': Buffer.from(JSON.stringify(config)),
    'adapter_model.safetensors': Buffer.alloc(10),
  };
  const files = [];
  for (const [name, body] of Object.entries(bodies))
    files.push({ name, ...(await t.storage.put(`${storagePrefix}/${name}`, body)) });
  await t.database.db.update(tunedModels).set({ files }).where(eq(tunedModels.id, id));
}

const validators = new Map<string, ValidateFunction>();

/** The validator of one answer of one operation, or null when the document has no JSON for it. */
function validatorOf({ method, path, operation }: GeneratedRequest, status: number): ValidateFunction | null {
  const key = `${method} ${path} ${status}`;
  const known = validators.get(key);
  if (known) return known;
  const schema = operation.responses[status]?.content?.['application/json']?.schema;
  if (!schema) return null;
  const ajv = new Ajv2020({ strict: false, validateFormats: false });
  const validator = ajv.compile({ ...schema, components: document.components });
  validators.set(key, validator);
  return validator;
}

/** An answer within this time is no stream that waits for events. */
const PATIENCE_MS = 15_000;

/** The answer; of a stream of events only its beginning. Throws when nothing comes. */
async function send(request: GeneratedRequest): Promise<Answer> {
  const key = request.path.startsWith('/v1/organization') ? adminKey : t.alice.key;
  const headers = new Headers({ authorization: `Bearer ${key}` });
  if (request.json !== undefined) headers.set('content-type', 'application/json');
  const body = request.json === undefined ? request.form : JSON.stringify(request.json);
  const init = { method: request.method, headers, body, duplex: 'half' } as RequestInit;
  const late = new Promise<never>((_, reject) => {
    setTimeout(reject, PATIENCE_MS, new Error(`no answer: ${request.method} ${request.url}`)).unref();
  });
  const response = await Promise.race([Promise.resolve(t.app.request(request.url, init)), late]);
  const type = response.headers.get('content-type') ?? '';
  if (type.includes('event-stream')) await response.body?.cancel();
  const text = type.includes('event-stream') ? '' : await Promise.race([response.text(), late]);
  const json = type.includes('application/json') && text !== '' ? JSON.parse(text) : undefined;
  return { status: response.status, headers: response.headers, text, json };
}

function check(request: GeneratedRequest, answer: Answer): void {
  const shown = `${request.method} ${request.url} ${JSON.stringify(request.json)?.slice(0, 1_500) ?? ''}\n→ ${answer.status} ${answer.text.slice(0, 600)}`;
  expect(answer.status, shown).toBeLessThan(500);
  expect(answer.headers.get('x-request-id'), shown).toMatch(/^req_/);
  // A path of one dot or an encoded slash can lead to another route; unknown URLs are in no document.
  const elsewhere =
    answer.json?.error?.code === 'unknown_url' || answer.json?.error?.code === 'method_not_allowed';
  if (!elsewhere) expect(Object.keys(request.operation.responses), shown).toContain(String(answer.status));
  const type = answer.headers.get('content-type') ?? '';
  if (answer.status !== 200) {
    expect(answer.json?.error, shown).toEqual({
      message: expect.any(String),
      type: expect.any(String),
      param: answer.json?.error?.param === null ? null : expect.any(String),
      code: answer.json?.error?.code === null ? null : expect.any(String),
    });
    expect(answer.json.error.message.replaceAll('drop table files', ''), shown).not.toMatch(INSIDE);
  }
  if (elsewhere || !type.includes('application/json')) return;
  const validator = validatorOf(request, answer.status);
  expect(validator?.(answer.json) ?? false, `${shown}\n${JSON.stringify(validator?.errors)}`).toBe(true);
}

describe('any request', () => {
  it(
    `of ${CASES} made with seed ${SEED} gets an answer that the document describes`,
    async () => {
      const statuses = new Map<string, Set<number>>();
      const faults: string[] = [];
      for (let n = 0; n < CASES; n++) {
        const request = requests.next(n);
        let status = 0;
        try {
          const answer = await send(request);
          status = answer.status;
          check(request, answer);
          if (status === 200 && request.method === 'POST') requests.learn(request.path, answer.json);
        } catch (error) {
          const logged = t.logged.findLast((line) => line.includes('"level":50')) ?? '';
          faults.push(`case ${n}: ${(error as Error).message.slice(0, 3_000)}\n${logged.slice(0, 1_000)}`);
        }
        const name = `${request.method} ${request.path}`;
        statuses.set(name, (statuses.get(name) ?? new Set()).add(status));
      }
      expect(faults.slice(0, 10).join('\n\n'), `${faults.length} of ${CASES}`).toBe('');
      expect([...statuses.keys()].sort()).toEqual(requests.operations.sort());
      // The generator is worth something: many operations succeed at times, and most refuse at times.
      const succeeded = [...statuses.values()].filter((seen) => seen.has(200)).length;
      const refused = [...statuses.values()].filter((seen) =>
        [...seen].some((status) => status >= 400),
      ).length;
      expect(succeeded / statuses.size).toBeGreaterThan(0.4);
      expect(refused / statuses.size).toBeGreaterThan(0.5);
      expect(t.logged.filter((line) => line.includes('"level":50'))).toEqual([]);
      expect((await t.call('GET', '/healthz')).status).toBe(200);
    },
    60_000 + CASES * 100,
  );
});
