/** Rows of the catalogue that need a state of the project or a bare socket: quotas, files not ready, bodies too long. */
import { connect } from 'node:net';
import { eq } from 'drizzle-orm';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { files, projects } from '../../src/db/schema.ts';
import { type Answer, BASE_MODEL, TEN_ROWS, useApp } from '../helpers/app.ts';
import { addUpload } from '../http/rows.ts';
import { expectHealthy, expectNoErrorsLogged, expectRefusal } from './aftermath.ts';

const t = useApp({ maxFileBytes: 200_000 });
let training_file: string;
let before: number;
beforeAll(async () => {
  training_file = await t.upload(TEN_ROWS);
});
afterEach(() => expectHealthy(t));
afterAll(() => expectNoErrorsLogged(t));

const createJob = (fields: object = {}) =>
  t.call('POST', '/v1/fine_tuning/jobs', { json: { model: BASE_MODEL, training_file, ...fields } });
const setQuotas = (quotas: Partial<typeof projects.$inferInsert>) =>
  t.database.db.update(projects).set(quotas).where(eq(projects.id, t.alice.projectId));

/** The head of a request whose body never comes, and all that is answered to it. */
async function answerToHead(path: string, headers: string[]): Promise<Answer> {
  const { hostname, port } = new URL(await t.serve());
  const socket = connect(Number(port), hostname);
  const lines = [`POST ${path} HTTP/1.1`, 'host: x', `authorization: Bearer ${t.alice.key}`, ...headers];
  socket.write(`${lines.join('\r\n')}\r\n\r\n`);
  const text = Buffer.concat(await socket.toArray()).toString(); // ends because the server closes
  const [head = '', body = ''] = text.split('\r\n\r\n');
  const [status = '', ...rest] = head.split('\r\n');
  const json = JSON.parse(body.slice(body.indexOf('{'), body.lastIndexOf('}') + 1));
  const pairs = rest.map((line): [string, string] => {
    const colon = line.indexOf(':');
    return [line.slice(0, colon), line.slice(colon + 1).trim()];
  });
  return { status: Number(status.split(' ')[1]), headers: new Headers(pairs), text, json };
}
const FORM = 'content-type: multipart/form-data; boundary=b';

describe('files', () => {
  it('U7 a body over the limit is refused by its length, unread, and the connection ends', async () => {
    before = (await t.stored()).length;
    const answer = await answerToHead('/v1/files', [FORM, 'content-length: 1000000000']);
    expectRefusal(answer, { status: 413, code: 'payload_too_large', param: 'file' });
    expect(answer.headers.get('connection')).toBe('close');
    expect(await t.stored()).toHaveLength(before);
  });

  it('U13 a project whose room is used up is refused before a byte of the body is read', async () => {
    await setQuotas({ maxStorageBytes: TEN_ROWS.length });
    before = (await t.stored()).length;
    const answer = await answerToHead('/v1/files', [FORM, 'content-length: 1000']);
    expectRefusal(answer, { status: 403, code: 'storage_quota_exceeded', param: null });
    expect(answer.json.error.type).toBe('insufficient_quota');
    expect(await t.stored()).toHaveLength(before);
    await setQuotas({ maxStorageBytes: null });
  });
});

describe('parts', () => {
  const part = async (id: string, text: string) => {
    const body = new FormData();
    body.set('data', new File([text], 'part'));
    return t.call('POST', `/v1/uploads/${id}/parts`, { body });
  };
  const complete = (id: string, part_ids: string[], more: object = {}) =>
    t.call('POST', `/v1/uploads/${id}/complete`, { json: { part_ids, ...more } });

  it('U17 parts that are too large, of nobody, of another upload, too few or other bytes than promised', async () => {
    const [upload, other] = [await addUpload(t, t.alice), await addUpload(t, t.alice)];
    const large = await answerToHead(`/v1/uploads/${upload}/parts`, [
      FORM,
      `content-length: ${65 * 2 ** 20}`,
    ]);
    expectRefusal(large, { status: 413, code: 'payload_too_large', param: 'data' });
    const [a, bc, foreign] = [
      (await part(upload, 'a')).json.id as string,
      (await part(upload, 'bc')).json.id as string,
      (await part(other, 'abc')).json.id as string,
    ];
    before = (await t.stored()).length;
    const refused = async (param: string, code: string, ids: string[], more: object = {}) =>
      expectRefusal(await complete(upload, ids, more), { status: 400, code, param });
    await refused('part_ids[1]', 'invalid_value', [a, 'part_none']);
    await refused('part_ids[0]', 'invalid_value', [foreign]);
    await refused('part_ids', 'upload_size_mismatch', [a]);
    // In another order they are other bytes, which the checksum tells.
    const md5 = '900150983cd24fb0d6963f7d28e17f72';
    await refused('md5', 'checksum_mismatch', [bc, a], { md5 });
    expect(await t.stored()).toHaveLength(before);

    const done = await complete(upload, [a, bc], { md5 });
    expect([done.status, done.json.status]).toEqual([200, 'completed']);
    expect((await complete(upload, [a, bc], { md5 })).json.file.id).toBe(done.json.file.id);
    await refused('upload_id', 'upload_completed', [bc, a]);
    await t.call('POST', `/v1/uploads/${other}/cancel`);
    const cancelled = { status: 400, code: 'upload_cancelled', param: 'upload_id' };
    expectRefusal(await complete(other, [foreign]), cancelled);
    expectRefusal(await part(other, 'abc'), cancelled);
  });
});

describe('jobs', () => {
  it('T7 a file that is still being uploaded', async () => {
    const id = await t.upload(TEN_ROWS);
    const setStatus = (status: string) => t.database.db.update(files).set({ status }).where(eq(files.id, id));
    await setStatus('uploaded');
    for (const param of ['training_file', 'validation_file']) {
      const answer = await createJob({ [param]: id });
      expectRefusal(answer, { status: 400, code: 'file_not_ready', param });
      expect(answer.json.error.message).toBe(`File ${id} is not ready`);
    }
    await setStatus('processed');
    expect((await createJob({ training_file: id })).status).toBe(200);
  });

  it('T20 more jobs than the project may have', async () => {
    await setQuotas({ maxActiveJobs: 1 });
    const answers = [await createJob(), await createJob()];
    const answer = answers.find(({ status }) => status !== 200)!;
    expectRefusal(answer, { status: 429, code: 'job_limit_reached', param: null });
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
    await setQuotas({ maxActiveJobs: null });
    expect((await createJob()).status).toBe(200);
  });

  it('T26 whole numbers are whole however they are written', async () => {
    const body = `{"model":"${BASE_MODEL}","training_file":"${training_file}","seed":7.0,"method":{"type":"supervised","supervised":{"hyperparameters":{"n_epochs":3.0,"batch_size":3e0}}}}`;
    const headers = { 'content-type': 'application/json' };
    const answer = await t.call('POST', '/v1/fine_tuning/jobs', { body, headers });
    expect(answer.status).toBe(200);
    expect(answer.json.seed).toBe(7);
    expect(answer.json.method.supervised.hyperparameters).toMatchObject({ n_epochs: 3, batch_size: 3 });
  });
});
