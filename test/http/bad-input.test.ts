/**
 * Every entry of test/bad-input/*.json: what is sent, and the refusal it must get. After each one the service still
 * answers, nothing was stored, and no answer is a 5xx that the entry does not name.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createKey, revokeKey } from '../../src/domain/keys/create.ts';
import { expectHealthy, expectNoErrorsLogged, expectNothingShown } from '../bad-input/aftermath.ts';
import { BASE_MODEL, type CallOptions, TEN_ROWS, useApp } from '../helpers/app.ts';
import { adminKeyOf } from './admin-rows.ts';
import { addJob, addTunedModel } from './rows.ts';

interface Case {
  name: string;
  /** "METHOD /path" */
  request: string;
  json?: unknown;
  text?: string;
  /** The body as bytes that are no text. */
  base64?: string;
  form?: [string, string | { text?: string; base64?: string; filename: string }][];
  headers?: Record<string, string>;
  /** Whose key is sent; Alice's unless given, none when the headers bring their own. */
  key?: 'admin' | 'project' | 'reader' | 'revoked' | 'expired';
  /** `*` as code or param is any, at the end of a param any ending. */
  expect: { status: number; code: string | null; param: string | null; message?: string };
}

const t = useApp({ maxFileBytes: 200_000 });
const names: Record<string, string> = {};
let keys: Record<NonNullable<Case['key']>, string>;

beforeAll(async () => {
  names.model = BASE_MODEL;
  names.file = await t.upload(TEN_ROWS);
  names.user_data_file = await t.upload('x', { purpose: 'user_data', filename: 'x.txt' });
  names.foreign_file = await t.upload(TEN_ROWS, { key: t.bob.key });
  names.job = await addJob(t, t.alice);
  names.foreign_job = await addJob(t, t.bob);
  names.key = t.alice.key;
  names.project = t.alice.projectId;
  names.foreign_project = t.bob.projectId;
  const reader = await createKey(t.database, t.alice.projectId, 'reader', null, { scopes: ['api.all.read'] });
  names.api_key = reader.id;
  const revoked = await createKey(t.database, t.alice.projectId, 'revoked');
  await revokeKey(t.database, t.alice.projectId, revoked.id);
  const past = new Date(Date.now() - 1_000);
  keys = {
    admin: (await adminKeyOf(t, t.alice)).key,
    project: t.alice.key,
    reader: reader.key,
    revoked: revoked.key,
    expired: (await createKey(t.database, t.alice.projectId, 'expired', past)).key,
  };
  names.batch_file = await t.upload('{}', { purpose: 'batch', filename: 'in.jsonl' });
  names.ended_job = await addJob(t, t.alice);
  await t.call('POST', `/v1/fine_tuning/jobs/${names.ended_job}/cancel`);
  names.deleted_model = (await addTunedModel(t, t.alice, { tail: 'deleted0' })).id;
  await t.call('DELETE', `/v1/models/${names.deleted_model}`);
  await t.call('POST', '/v1/fine_tuning/jobs', {
    json: { model: BASE_MODEL, training_file: names.file },
    headers: { 'idempotency-key': 'used' },
  });
  names.foreign_model = (await addTunedModel(t, t.bob, { tail: 'foreign0' })).id;
});

/** `{{name}}` is an id; `{{repeat:x:5}}`, `{{pairs:5}}` and `{{numbers:5}}` make long texts and big objects. */
function fill(text: string): string {
  return text.replace(
    /\{\{(\w+)(?::(.*?))?(?::(\d+))?\}\}/gs,
    (_, name: string, argument = '', times = '') => {
      const count = Number(times || argument);
      if (name === 'repeat') return argument.repeat(count);
      if (name === 'pairs') return Array.from({ length: count }, (_, i) => `"k${i}":"v"`).join(',');
      if (name === 'numbers') return Array.from({ length: count }, (_, i) => `"${i}":1`).join(',');
      const known = names[name];
      if (!known) throw new Error(`The case names '${name}', which nobody made.`);
      return known;
    },
  );
}

function fillAll(value: unknown): unknown {
  if (typeof value === 'string') return fill(value);
  if (Array.isArray(value)) return value.map(fillAll);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [fill(key), fillAll(each)]));
}

/** The form as bytes, whole before it is sent: a refusal may come before its end. */
async function encodeForm(parts: NonNullable<Case['form']>): Promise<CallOptions> {
  const form = new FormData();
  for (const [name, value] of parts) {
    if (typeof value === 'string') form.append(name, value);
    else {
      const bytes = value.base64 ? Buffer.from(value.base64, 'base64') : Buffer.from(fill(value.text ?? ''));
      form.append(name, new File([bytes], fill(value.filename)));
    }
  }
  const encoded = new Response(form);
  return {
    body: await encoded.arrayBuffer(),
    headers: { 'content-type': encoded.headers.get('content-type') ?? '' },
  };
}

async function optionsOf(each: Case): Promise<CallOptions> {
  if (each.form) return encodeForm(each.form);
  const headers = fillAll(each.headers ?? {}) as Record<string, string>;
  const key = headers.authorization ? null : keys[each.key ?? 'project'];
  if (each.json !== undefined) return { json: fillAll(each.json), headers, key };
  if (each.text === undefined && each.base64 === undefined) return { headers, key };
  const body = each.base64 === undefined ? fill(each.text ?? '') : Buffer.from(each.base64, 'base64');
  return { body, headers: { 'content-type': 'application/json', ...headers }, key };
}

/** `expected`, or what came where it may be anything. */
function wild(expected: string | null, got: string | null): string | null {
  if (expected === null || !expected.endsWith('*')) return expected;
  return (got ?? '').startsWith(expected.slice(0, -1)) ? got : expected;
}

describe.each(['files', 'uploads', 'jobs', 'chat', 'admin', 'batches', 'http'])('bad input: %s', (file) => {
  const cases = JSON.parse(
    readFileSync(path.join(import.meta.dirname, '../bad-input', `${file}.json`), 'utf8'),
  ) as Case[];

  it.each(cases.map((each) => [each.name, each] as const))('%s', async (_, each) => {
    const [method = '', url = ''] = fill(each.request).split(' ');
    const before = (await t.stored()).length;
    const options = await optionsOf(each);
    const started = performance.now();
    const answer = await t.call(method, url, options);
    const took = performance.now() - started;

    const { code, param, message, type } = answer.json.error;
    expect({ status: answer.status, code, param }).toEqual({
      status: each.expect.status,
      code: wild(each.expect.code, code),
      param: each.expect.param === null ? null : wild(fill(each.expect.param), param),
    });
    expect(message).toMatch(each.expect.message ? new RegExp(fill(each.expect.message)) : /\w/);
    expect(message.length).toBeLessThan(6_000);
    expectNothingShown(answer.text);
    if (answer.status < 500) expect(type).toBe('invalid_request_error');
    expect(answer.headers.get('x-request-id')).toMatch(/^req_/);
    expect(took).toBeLessThan(2_000);
    expect((await t.stored()).length).toBe(before);
    await expectHealthy(t);
  });
});

afterAll(() => expectNoErrorsLogged(t));
