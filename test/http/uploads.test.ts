/** Files in parts, through the official SDK and around its edges: order, size, checksum, state, isolation, leftovers. */
import { createHash, randomBytes } from 'node:crypto';
import { eq, sql } from 'drizzle-orm';
import OpenAI, { BadRequestError, NotFoundError, toFile } from 'openai';
import { beforeAll, describe, expect, it } from 'vitest';
import { files } from '../../src/db/schema.ts';
import { jobs } from '../../src/db/schema-jobs.ts';
import { uploadParts, uploads } from '../../src/db/schema-uploads.ts';
import { completeUpload } from '../../src/domain/uploads/complete.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { TEN_ROWS, useApp } from '../helpers/app.ts';

const MB = 1024 * 1024;
const t = useApp({ maxUploadBytes: 40 * MB });
let client: OpenAI;
beforeAll(async () => {
  client = new OpenAI({ apiKey: t.alice.key, baseURL: await t.serve() });
});

const md5 = (bytes: Uint8Array) => createHash('md5').update(bytes).digest('hex');
const create = (bytes: number, more: Partial<OpenAI.UploadCreateParams> = {}) =>
  client.uploads.create({
    bytes,
    filename: 'data.bin',
    purpose: 'user_data',
    mime_type: 'application/octet-stream',
    ...more,
  });
const addPart = async (id: string, bytes: Uint8Array | string) =>
  (await client.uploads.parts.create(id, { data: await toFile(Buffer.from(bytes), 'part') })).id;
const stored = async () => (await t.stored()).filter((file) => !file.includes('/.tmp/')).sort();
const refused = async (work: Promise<unknown>) => {
  const error = (await work.then(() => null).catch((e: unknown) => e)) as BadRequestError;
  expect(error).toBeInstanceOf(BadRequestError);
  return [error.code, error.param];
};

describe('an upload', () => {
  it('becomes an ordinary file from parts that went in parallel and in any order', async () => {
    const before = await stored();
    const bytes = randomBytes(23 * MB + 17);
    const upload = await create(bytes.length, { purpose: 'evals' });
    expect(upload).toMatchObject({
      id: expect.stringMatching(/^upload_[0-9A-Za-z]{24}$/),
      object: 'upload',
      status: 'pending',
      bytes: bytes.length,
      purpose: 'evals',
      filename: 'data.bin',
      file: null,
    });
    expect(upload.expires_at - upload.created_at).toBe(3600);
    const size = 5 * MB + 3;
    const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
      bytes.subarray(i * size, (i + 1) * size),
    );
    const parts = new Array<string>(pieces.length);
    await Promise.all(
      pieces
        .map((piece, i) => [piece, i] as const)
        .reverse()
        .map(async ([piece, i]) => {
          parts[i] = await addPart(upload.id, piece);
        }),
    );
    const done = await client.uploads.complete(upload.id, { part_ids: parts, md5: md5(bytes) });
    expect(done).toMatchObject({ id: upload.id, status: 'completed', bytes: bytes.length });
    expect(done.file).toMatchObject({
      object: 'file',
      bytes: bytes.length,
      status: 'processed',
      purpose: 'evals',
    });

    const content = Buffer.from(await (await client.files.content(done.file!.id)).arrayBuffer());
    expect(content.equals(bytes)).toBe(true);
    const [row] = await t.database.db.select().from(files).where(eq(files.id, done.file!.id));
    expect(row?.sha256).toBe(createHash('sha256').update(bytes).digest('hex'));
    // Of the parts nothing is left.
    expect((await stored()).length).toBe(before.length + 1);
    expect(await t.database.db.$count(uploadParts, eq(uploadParts.uploadId, upload.id))).toBe(0);
    // The answer may have been lost: the same call again answers the same.
    const again = await client.uploads.complete(upload.id, { part_ids: parts, md5: md5(bytes) });
    expect(again.file?.id).toBe(done.file?.id);
    expect(await t.database.db.$count(files, eq(files.bytes, bytes.length))).toBe(1);
    expect(await refused(client.uploads.complete(upload.id, { part_ids: [parts[0]!] }))).toEqual([
      'upload_completed',
      'upload_id',
    ]);
  });

  it('can be trained on, and expires as asked', async () => {
    const text = Buffer.from(TEN_ROWS);
    const upload = await create(text.length, {
      filename: 'train.jsonl',
      purpose: 'fine-tune',
      mime_type: 'text/jsonl',
      expires_after: { anchor: 'created_at', seconds: 7200 },
    });
    const cut = 101; // in the middle of a line
    const parts = [
      await addPart(upload.id, text.subarray(0, cut)),
      await addPart(upload.id, text.subarray(cut)),
    ];
    const { file } = await client.uploads.complete(upload.id, { part_ids: parts });
    expect(file!.expires_at! - file!.created_at).toBe(7200);
    const job = await client.fineTuning.jobs.create({ model: 'Qwen/Qwen3-tiny', training_file: file!.id });
    expect(await t.database.db.$count(jobs, eq(jobs.id, job.id))).toBe(1);
  });

  it('gives batch files 30 days', async () => {
    const upload = await create(2, { filename: 'b.jsonl', purpose: 'batch' });
    const { file } = await client.uploads.complete(upload.id, { part_ids: [await addPart(upload.id, '{}')] });
    expect(file!.expires_at! - file!.created_at).toBe(30 * 24 * 3600);
  });

  it('keeps its parts while a completion is refused, and takes a better one', async () => {
    const before = await stored();
    const upload = await create(6);
    const [a, b, extra] = [
      await addPart(upload.id, 'abc'),
      await addPart(upload.id, 'def'),
      await addPart(upload.id, 'x'),
    ];
    const complete = (part_ids: string[], sum?: string) =>
      client.uploads.complete(upload.id, { part_ids, ...(sum && { md5: sum }) });
    expect(await refused(complete([a]))).toEqual(['upload_size_mismatch', 'part_ids']);
    expect(await refused(complete([a, b, extra]))).toEqual(['upload_size_mismatch', 'part_ids']);
    expect(await refused(complete([a, 'part_none']))).toEqual(['invalid_value', 'part_ids[1]']);
    expect(await refused(complete([a, a]))).toEqual(['invalid_value', 'part_ids[1]']);
    expect(await refused(complete([b, a], md5(Buffer.from('abcdef'))))).toEqual(['checksum_mismatch', 'md5']);
    expect(await refused(complete([a, b], 'nonsense'))).toEqual(['invalid_value', 'md5']);
    expect(await refused(complete([]))).toEqual(['empty_array', 'part_ids']);
    expect((await stored()).length).toBe(before.length + 3);
    const done = await complete([a, b], md5(Buffer.from('abcdef')).toUpperCase());
    expect(
      await (await t.storage.get(`projects/${t.alice.projectId}/files/${done.file!.id}`)).toArray(),
    ).toEqual([Buffer.from('abcdef')]);
    expect((await stored()).length).toBe(before.length + 1);
    // Repeated: the same answer, but not for bytes that it does not have.
    expect((await complete([a, b])).file!.id).toBe(done.file!.id);
    expect(await refused(complete([a, b], md5(Buffer.from('other'))))).toEqual(['checksum_mismatch', 'md5']);
  });

  it('that is cancelled while it is put together says so', async () => {
    const upload = await create(3);
    const part = await addPart(upload.id, 'abc');
    const storage: Storage = {
      ...t.storage,
      get: async (key, range) => {
        await client.uploads.cancel(upload.id);
        return t.storage.get(key, range);
      },
    };
    const completing = completeUpload({ ...t, storage }, t.alice.projectId, upload.id, { part_ids: [part] });
    await expect(completing).rejects.toMatchObject({ status: 400, code: 'upload_cancelled' });
  });

  it('is looked into like any file of its purpose', async () => {
    const before = await stored();
    const upload = await create(12, { filename: 'a.jsonl', purpose: 'fine-tune' });
    const parts = [await addPart(upload.id, '{}\n{"a'), await addPart(upload.id, '": 1,}')];
    await expect(client.uploads.complete(upload.id, { part_ids: parts })).rejects.toThrow(
      /Line 2 is not a dictionary/,
    );
    expect((await stored()).length).toBe(before.length + 2);
    await client.uploads.cancel(upload.id);
    expect(await stored()).toEqual(before);
    const named = (filename: string, more: object) => refused(create(5, { filename, ...more }));
    expect(await named('a.csv', { purpose: 'fine-tune' })).toEqual(['invalid_file_format', 'filename']);
    expect(await named('a.jsonl', { purpose: 'fun' })).toEqual(['invalid_value', 'purpose']);
    expect(await named('../', {})).toEqual(['invalid_filename', 'filename']);
    expect(await named('a.jsonl', { purpose: 'batch', bytes: 30 * MB * 10 })).toEqual([
      'integer_above_max_value',
      'bytes',
    ]);
  });

  it('is cancelled once and for all', async () => {
    const before = await stored();
    const upload = await create(3);
    const part = await addPart(upload.id, 'abc');
    expect(await client.uploads.cancel(upload.id)).toMatchObject({ status: 'cancelled', file: null });
    expect(await client.uploads.cancel(upload.id)).toMatchObject({ status: 'cancelled' });
    expect(await stored()).toEqual(before);
    expect(await refused(addPart(upload.id, 'abc'))).toEqual(['upload_cancelled', 'upload_id']);
    // Also while the sender is far from its end.
    expect(await refused(addPart(upload.id, randomBytes(40 * MB)))).toEqual([
      'upload_cancelled',
      'upload_id',
    ]);
    expect(await refused(client.uploads.complete(upload.id, { part_ids: [part] }))).toEqual([
      'upload_cancelled',
      'upload_id',
    ]);
    expect(await stored()).toEqual(before);
  });

  it('is over after its hour, at once', async () => {
    const upload = await create(3);
    const part = await addPart(upload.id, 'abc');
    await t.database.db
      .update(uploads)
      .set({ expiresAt: sql`clock_timestamp() - interval '1 second'` })
      .where(eq(uploads.id, upload.id));
    const expired = ['upload_expired', 'upload_id'];
    expect(await refused(addPart(upload.id, 'abc'))).toEqual(expired);
    expect(await refused(client.uploads.complete(upload.id, { part_ids: [part] }))).toEqual(expired);
    expect(await refused(client.uploads.cancel(upload.id))).toEqual(expired);
  });

  it('is unknown to another project', async () => {
    const bob = new OpenAI({ apiKey: t.bob.key, baseURL: await t.serve() });
    const upload = await create(3);
    const part = await addPart(upload.id, 'abc');
    await expect(bob.uploads.cancel(upload.id)).rejects.toBeInstanceOf(NotFoundError);
    await expect(bob.uploads.complete(upload.id, { part_ids: [part] })).rejects.toBeInstanceOf(NotFoundError);
    const data = await toFile(Buffer.from('abc'), 'part');
    await expect(bob.uploads.parts.create(upload.id, { data })).rejects.toBeInstanceOf(NotFoundError);
    const own = await bob.uploads.create({
      bytes: 3,
      filename: 'x',
      purpose: 'vision',
      mime_type: 'image/png',
    });
    expect(await refused(bob.uploads.complete(own.id, { part_ids: [part] }))).toEqual([
      'invalid_value',
      'part_ids[0]',
    ]);
  });

  it('is completed once when two ask at the same moment', async () => {
    const upload = await create(3, { filename: 'twice.bin' });
    const part = await addPart(upload.id, 'abc');
    const both = await Promise.all(
      [1, 2, 3].map(() => client.uploads.complete(upload.id, { part_ids: [part] })),
    );
    expect(new Set(both.map(({ file }) => file!.id)).size).toBe(1);
    expect(await t.database.db.$count(files, eq(files.filename, 'twice.bin'))).toBe(1);
    expect((await stored()).filter((file) => file.includes(upload.id))).toEqual([]);
  });

  it('answers both of two equal calls, of which one finds the parts gone', async () => {
    const upload = await create(3, { filename: 'gone.bin' });
    const request = { part_ids: [await addPart(upload.id, 'abc')] };
    const twins: Awaited<ReturnType<typeof completeUpload>>[] = [];
    const overtaken: Storage = {
      ...t.storage,
      put: async (key, body) => {
        twins.push(await completeUpload(t, t.alice.projectId, upload.id, request));
        return t.storage.put(key, body);
      },
    };
    const late = await completeUpload({ ...t, storage: overtaken }, t.alice.projectId, upload.id, request);
    expect(twins.map(({ file }) => file?.id)).toEqual([late.file?.id]);
    expect(late.upload).toMatchObject({ status: 'completed', fileId: late.file!.id });
    expect(await t.database.db.$count(files, eq(files.filename, 'gone.bin'))).toBe(1);
  });
});

describe('parts', () => {
  const send = (id: string, body: FormData) => t.call('POST', `/v1/uploads/${id}/parts`, { body });
  const form = (...parts: [string, string | File][]) => {
    const data = new FormData();
    for (const [name, value] of parts) data.append(name, value);
    return data;
  };

  it('are refused when they are missing, empty, repeated, too large or not a file, and leave nothing', async () => {
    const upload = await create(1000);
    const before = await stored();
    const file = (text: string) => new File([text], 'blob');
    const answers = [
      await send(upload.id, form()),
      await send(upload.id, form(['data', 'text'])),
      await send(upload.id, form(['data', file('a')], ['data', file('b')])),
      await send(upload.id, form(['data', file('a')], ['purpose', 'x'])),
      await send(upload.id, form(['data', file('')])),
      await send(upload.id, form(['data', file('x'.repeat(1001))])),
      await t.call('POST', `/v1/uploads/${upload.id}/parts`, { json: { data: 'x' } }),
    ];
    expect(answers.map(({ status, json }) => [status, json.error.code, json.error.param])).toEqual([
      [400, 'missing_required_parameter', 'data'],
      [400, 'invalid_type', 'data'],
      [400, 'duplicate_parameter', 'data'],
      [400, 'unknown_parameter', 'purpose'],
      [400, 'invalid_value', 'data'],
      [400, 'invalid_value', 'data'],
      [415, 'invalid_content_type', null],
    ]);
    expect(await stored()).toEqual(before);
    const headers = {
      'content-type': 'multipart/form-data; boundary=b',
      'content-length': String(65 * MB),
    };
    const large = await t.call('POST', `/v1/uploads/${upload.id}/parts`, {
      body: new Uint8Array(1),
      headers,
    });
    expect([large.status, large.json.error.code, large.json.error.param]).toEqual([
      413,
      'payload_too_large',
      'data',
    ]);
  });

  it('cannot fill the disk: repetitions have a bound', async () => {
    const upload = await create(2);
    await t.database.db.insert(uploadParts).values({
      id: 'part_large',
      projectId: t.alice.projectId,
      uploadId: upload.id,
      bytes: 64 * MB + 4,
      sha256: '0'.repeat(64),
      storageKey: 'k',
    });
    expect(await refused(addPart(upload.id, 'a'))).toEqual(['invalid_value', 'data']);
  });

  it('are no more than can be announced', async () => {
    await Promise.allSettled(Array.from({ length: 9 }, () => create(40 * MB, { filename: 'full' })));
    expect(await t.database.db.$count(uploads, eq(uploads.filename, 'full'))).toBeLessThanOrEqual(8);
    expect(await refused(create(40 * MB))).toEqual(['too_many_pending_uploads', 'bytes']);
  });
});
