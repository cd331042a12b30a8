/**
 * Walks openapi/compatibility.json: every endpoint is routed or not as it says, every parameter is taken, ignored or
 * refused by name, every field is in the answers' schemas; and nothing that the official SDK knows is missing from it
 * (the types below do not compile otherwise).
 */
import { readFileSync } from 'node:fs';
import type OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import compatibility from '../../openapi/compatibility.json' with { type: 'json' };
import { COMPATIBILITY_PAGE, compatibilityText } from '../../openapi/compatibility.ts';
import { openapiDocument } from '../../src/http/docs.ts';
import { BASE_MODEL, TEN_ROWS, useApp } from '../helpers/app.ts';
import { addBatch, addJob } from '../http/rows.ts';
import { answerOf, ScriptedWorker } from '../http/scripted-worker.ts';

interface Parameter {
  status: string;
  example?: unknown;
  with?: Record<string, unknown>;
  note?: string;
}
interface Endpoint {
  status: string;
  note?: string;
  parameters: Record<string, Parameter>;
  response?: string;
}
const endpoints = compatibility.endpoints as Record<string, Endpoint>;

// What the SDK's types name must be listed: a new version of the SDK shows here, when types are checked.
type Keys<T> = T extends unknown ? keyof T : never;
type Listed<T> = Record<Extract<Keys<T>, string>, unknown>;
const { endpoints: listed, objects } = compatibility;
const complete = [
  listed['POST /v1/chat/completions'].parameters satisfies Listed<OpenAI.Chat.ChatCompletionCreateParams>,
  listed['GET /v1/chat/completions'].parameters satisfies Listed<OpenAI.Chat.ChatCompletionListParams>,
  listed['POST /v1/completions'].parameters satisfies Listed<OpenAI.CompletionCreateParams>,
  listed['POST /v1/fine_tuning/jobs'].parameters satisfies Listed<OpenAI.FineTuning.Jobs.JobCreateParams>,
  listed['GET /v1/fine_tuning/jobs'].parameters satisfies Listed<OpenAI.FineTuning.Jobs.JobListParams>,
  listed['POST /v1/files'].parameters satisfies Listed<OpenAI.FileCreateParams>,
  listed['GET /v1/files'].parameters satisfies Listed<OpenAI.FileListParams>,
  listed['POST /v1/uploads'].parameters satisfies Listed<OpenAI.UploadCreateParams>,
  listed['POST /v1/uploads/{upload_id}/complete'].parameters satisfies Listed<OpenAI.UploadCompleteParams>,
  listed['POST /v1/batches'].parameters satisfies Listed<OpenAI.BatchCreateParams>,
  listed['GET /v1/batches'].parameters satisfies Listed<OpenAI.BatchListParams>,
  listed['POST /v1/fine_tuning/alpha/graders/run']
    .parameters satisfies Listed<OpenAI.FineTuning.Alpha.GraderRunParams>,
  objects.File satisfies Listed<OpenAI.FileObject>,
  objects.Upload satisfies Listed<OpenAI.Upload>,
  objects.FineTuningJob satisfies Listed<OpenAI.FineTuning.Jobs.FineTuningJob>,
  objects.FineTuningJobEvent satisfies Listed<OpenAI.FineTuning.Jobs.FineTuningJobEvent>,
  objects.FineTuningJobCheckpoint satisfies Listed<OpenAI.FineTuning.Jobs.FineTuningJobCheckpoint>,
  objects.Model satisfies Listed<OpenAI.Model>,
  objects.ChatCompletion satisfies Listed<OpenAI.Chat.ChatCompletion>,
  objects.Completion satisfies Listed<OpenAI.Completion>,
  objects.Batch satisfies Listed<OpenAI.Batch>,
  objects.GraderRun satisfies Listed<OpenAI.FineTuning.Alpha.GraderRunResponse>,
];

const t = useApp();
let worker: ScriptedWorker;
const bodies: Record<string, Record<string, unknown>> = {};
const ids: Record<string, string> = {};

beforeAll(async () => {
  worker = await ScriptedWorker.start(t.database);
  worker.script = (request) => answerOf(['{"a":', '1}'], { n: request.sampling?.n ?? 1 });
  const messages = [{ role: 'user', content: 'Hi' }];
  const file = await t.upload(TEN_ROWS);
  const line = {
    custom_id: 'a',
    method: 'POST',
    url: '/v1/chat/completions',
    body: { model: BASE_MODEL, messages },
  };
  const input = await t.upload(JSON.stringify(line), { purpose: 'batch', filename: 'in.jsonl' });
  const grader = { type: 'string_check', name: 'g', input: 'a', reference: 'a', operation: 'eq' };
  Object.assign(bodies, {
    'POST /v1/chat/completions': { model: BASE_MODEL, messages },
    'POST /v1/completions': { model: BASE_MODEL, prompt: 'Hi' },
    'POST /v1/fine_tuning/jobs': { model: BASE_MODEL, training_file: file },
    'POST /v1/uploads': { filename: 'a.txt', purpose: 'user_data', bytes: 3, mime_type: 'text/plain' },
    'POST /v1/batches': { input_file_id: input, endpoint: '/v1/chat/completions', completion_window: '24h' },
    'POST /v1/fine_tuning/alpha/graders/run': { grader, model_sample: 'x' },
    'POST /v1/fine_tuning/alpha/graders/validate': { grader },
    'POST /v1/webhook_endpoints': {
      name: 'n',
      url: 'https://example.com/hook',
      event_types: ['batch.completed'],
    },
  });
  ids.fine_tuning_job_id = await addJob(t, t.alice);
  ids.file_id = file;
  ids.batch_id = await addBatch(t, t.alice);
  ids.model = BASE_MODEL;
});
afterAll(() => worker?.stop());

const rows = Object.entries(endpoints).flatMap(([endpoint, { status, parameters }]) =>
  status === 'supported'
    ? Object.entries(parameters).map(([name, each]) => [endpoint, name, each] as const)
    : [],
);

describe('the list', () => {
  it('has what the SDK knows, and is what docs/compatibility.md shows', () => {
    expect(complete.every((each) => Object.keys(each).length > 0)).toBe(true);
    expect(readFileSync(COMPATIBILITY_PAGE, 'utf8')).toBe(compatibilityText());
  });
});

describe('every endpoint', () => {
  const routes = () =>
    new Set(
      Object.entries(openapiDocument(t.app).paths).flatMap(([path, item]) =>
        Object.keys(item as object).map((method) => `${method.toUpperCase()} ${path}`),
      ),
    );

  it.each(Object.entries(endpoints).map(([name, each]) => [name, each.status]))(
    '%s is %s',
    async (name, status) => {
      expect(routes().has(name)).toBe(status === 'supported');
      if (status === 'supported') return;
      expect(status).toBe('rejected');
      expect(endpoints[name]?.note).toMatch(/\w/);
      const [method = '', path = ''] = name.split(' ');
      const { status: answered, json } = await t.call(method, path, method === 'POST' ? { json: {} } : {});
      expect([answered, json.error.code]).toEqual([404, 'unknown_url']);
    },
  );
});

describe('every parameter', () => {
  it.each(rows.filter(([endpoint, , { example }]) => example !== undefined && endpoint in bodies))(
    'of %s: %s',
    async (endpoint, name, parameter) => {
      const [method = '', path = ''] = endpoint.split(' ');
      const json = { ...bodies[endpoint], ...parameter.with, [name]: parameter.example };
      const answer = await t.call(method, path, { json });
      if (parameter.status === 'rejected') {
        expect(parameter.note).toMatch(/\w/);
        expect([answer.status, answer.json.error.param]).toEqual([400, name]);
      } else expect([answer.status, answer.json?.error]).toEqual([200, undefined]);
    },
  );

  it.each(rows.filter(([endpoint, , { example }]) => endpoint.startsWith('GET') && example !== undefined))(
    'of %s: %s, in the query',
    async (endpoint, name, { example }) => {
      const path = endpoint.slice(4).replace(/\{(\w+)\}/g, (_, id: string) => ids[id] ?? 'nobody');
      const pairs =
        typeof example === 'object' && example !== null
          ? Object.entries(example).map(([key, value]) => `${name}[${key}]=${value}`)
          : [`${name}=${example}`];
      const answer = await t.call('GET', `${path}?${pairs.join('&')}`);
      // Objects that are not there answer 404; the parameter is never what is wrong.
      expect([200, 404]).toContain(answer.status);
      expect(answer.json?.error?.param ?? '').not.toBe(name);
    },
  );

  it('that nobody listed is refused by name', async () => {
    for (const [endpoint, body] of Object.entries(bodies)) {
      const [method = '', path = ''] = endpoint.split(' ');
      const { status, json } = await t.call(method, path, { json: { ...body, surplus: 1 } });
      expect([endpoint, status, json.error?.param, json.error?.code]).toEqual([
        endpoint,
        400,
        'surplus',
        'unknown_parameter',
      ]);
    }
  });
});

/** The document's names of the objects, where they differ. */
const SCHEMAS: Record<string, string> = {
  UploadPart: 'UploadPart',
  CheckpointPermission: 'FineTuningCheckpointPermission',
  GraderRun: 'RunGraderResponse',
  Completion: 'Completion',
};

describe('every field', () => {
  it.each(Object.entries(objects))('of %s is in its schema, or not when it is absent', (name, fields) => {
    const { schemas = {} } =
      (openapiDocument(t.app) as { components?: { schemas?: Record<string, { properties?: object }> } })
        .components ?? {};
    const properties = schemas[SCHEMAS[name] ?? name]?.properties;
    expect(properties, `${name} has no schema among ${Object.keys(schemas)}`).toBeDefined();
    for (const [field, { status }] of Object.entries(fields as Record<string, Parameter>))
      expect([field, Object.hasOwn(properties ?? {}, field)]).toEqual([field, status === 'supported']);
  });
});
