import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { request } from 'node:http';
import { eq } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';
import { files } from '../../src/db/schema.ts';
import { TEN_ROWS, useApp } from '../helpers/app.ts';

const t = useApp({ maxFileBytes: 200_000 });

const form = (parts: [string, string | File][]) => {
  const body = new FormData();
  for (const [name, value] of parts) body.append(name, value);
  return body;
};
const jsonl = (text = TEN_ROWS, name = 'train.jsonl') => new File([text], name);

describe('POST /v1/files', () => {
  it.each([
    [
      'purpose first',
      (file: File): [string, string | File][] => [
        ['purpose', 'fine-tune'],
        ['file', file],
      ],
    ],
    [
      'file first',
      (file: File): [string, string | File][] => [
        ['file', file],
        ['purpose', 'fine-tune'],
      ],
    ],
  ])('stores the file and answers with the File object, %s', async (_, order) => {
    const answer = await t.call('POST', '/v1/files', { body: form(order(jsonl())) });
    expect(answer.status).toBe(200);
    expect(answer.json).toEqual({
      id: expect.stringMatching(/^file-[0-9A-Za-z]{24}$/),
      object: 'file',
      bytes: Buffer.byteLength(TEN_ROWS),
      created_at: expect.any(Number),
      filename: 'train.jsonl',
      purpose: 'fine-tune',
      status: 'processed',
      status_details: null,
    });
    expect(Math.abs(answer.json.created_at - Date.now() / 1000)).toBeLessThan(60);
    const [row] = await t.database.db.select().from(files).where(eq(files.id, answer.json.id));
    expect(row?.sha256).toBe(createHash('sha256').update(TEN_ROWS).digest('hex'));
    expect(row?.storageKey).toBe(`projects/${t.alice.projectId}/files/${answer.json.id}`);
  });

  it('keeps expires_after, gives batch files 30 days, and others none', async () => {
    const asked = await t.call('POST', '/v1/files', {
      body: form([
        ['file', jsonl()],
        ['purpose', 'fine-tune'],
        ['expires_after[anchor]', 'created_at'],
        ['expires_after[seconds]', '3600'],
      ]),
    });
    expect(asked.json.expires_at - asked.json.created_at).toBe(3600);
    const batch = await t.call('POST', '/v1/files', {
      body: form([
        ['purpose', 'batch'],
        ['file', jsonl('{"custom_id":"1"}')],
      ]),
    });
    expect(batch.json.expires_at - batch.json.created_at).toBe(30 * 24 * 3600);
  });

  it.each([
    ['as one part of JSON', [['expires_after', '{"anchor":"created_at","seconds":7200}']], 200, null],
    ['without an anchor', [['expires_after[seconds]', '7200']], 400, 'expires_after[anchor]'],
    ['without seconds', [['expires_after[anchor]', 'created_at']], 400, 'expires_after[seconds]'],
    [
      'in both spellings',
      [
        ['expires_after', '{}'],
        ['expires_after[seconds]', '7200'],
      ],
      400,
      'expires_after',
    ],
    ['of another key', [['expires_after', '{"days":1}']], 400, 'expires_after.days'],
    ['that is no object', [['expires_after', '[]']], 400, 'expires_after'],
    ['that is no JSON', [['expires_after', '{']], 400, 'expires_after'],
    [
      'too short',
      [['expires_after', '{"anchor":"created_at","seconds":3599}']],
      400,
      'expires_after[seconds]',
    ],
    [
      'too long',
      [['expires_after', '{"anchor":"created_at","seconds":2592001}']],
      400,
      'expires_after[seconds]',
    ],
    ['as text', [['expires_after', '{"anchor":"created_at","seconds":1.5}']], 400, 'expires_after[seconds]'],
  ] as [string, [string, string][], number, string | null][])(
    'reads expires_after %s',
    async (_, parts, status, param) => {
      const answer = await t.call('POST', '/v1/files', {
        body: form([['purpose', 'user_data'], ['file', new File(['x'], 'x.txt')], ...parts]),
      });
      expect([answer.status, answer.json.error?.param ?? null]).toEqual([status, param]);
      if (status === 200) expect(answer.json.expires_at - answer.json.created_at).toBe(7200);
    },
  );

  it('takes anything for purposes that are not looked into', async () => {
    const file = new File([new Uint8Array([0, 255, 1, 254])], 'picture.png');
    const answer = await t.call('POST', '/v1/files', {
      body: form([
        ['file', file],
        ['purpose', 'vision'],
      ]),
    });
    expect(answer.status).toBe(200);
    expect(answer.json.bytes).toBe(4);
  });

  it('refuses a file over the limit, whether its length is told or not, and keeps nothing', async () => {
    const before = await t.stored();
    const head = '--b\r\ncontent-disposition: form-data; name="file"; filename="big.bin"\r\n\r\n';
    const chunks = async function* () {
      yield Buffer.from(head);
      for (let i = 0; i < 40; i++) yield Buffer.alloc(10_000, 120);
      yield Buffer.from('\r\n--b--\r\n');
    };
    const headers = { 'content-type': 'multipart/form-data; boundary=b' };
    for (const extra of [{ 'content-length': '400123' }, {}] as Record<string, string>[]) {
      const body = ReadableStream.from(chunks()) as ReadableStream<Uint8Array>;
      const answer = await t.call('POST', '/v1/files', { body, headers: { ...headers, ...extra } });
      expect([answer.status, answer.json.error.code, answer.json.error.param]).toEqual([
        413,
        'payload_too_large',
        'file',
      ]);
      expect(answer.headers.get('connection')).toBe('close');
    }
    expect(await t.stored()).toEqual(before);
  });

  it('still hears the refusal over a socket, with a body cut off or to its end', async () => {
    const send = async (chunks: (string | Buffer)[]) => {
      const sent = request(`${await t.serve()}/files`, {
        method: 'POST',
        headers: {
          authorization: `Bearer ${t.alice.key}`,
          'content-type': 'multipart/form-data; boundary=b',
        },
      });
      const answered = once(sent, 'response');
      sent.on('error', () => {}); // the rest is not taken once it is refused
      for (const chunk of chunks) sent.write(chunk);
      sent.end();
      const [response] = await answered;
      return [
        response.statusCode,
        JSON.parse(Buffer.concat(await response.toArray()).toString()).error?.code,
      ];
    };
    const head = '--b\r\ncontent-disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n';
    const megabytes = Array.from({ length: 40 }, () => Buffer.alloc(100_000, 120));
    expect(await send([head, ...megabytes, '\r\n--b--\r\n'])).toEqual([413, 'payload_too_large']);
    expect(await send([head, '{}\n{'])).toEqual([400, null]);
    expect(await send([head, '{}\n{\r\n--b--\r\n'])).toEqual([400, 'missing_required_parameter']);
    const purpose = '\r\n--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b--\r\n';
    expect(await send([head, '{}\n{', purpose])).toEqual([400, 'invalid_jsonl']);
    expect(await send([head, '{}\n{}', purpose])).toEqual([200, undefined]);
  });

  it('keeps nothing of a refused upload', async () => {
    const before = await t.stored();
    const rows = await t.database.db.$count(files);
    for (const parts of [
      [
        ['file', jsonl('{"a":1}\nnot json')],
        ['purpose', 'fine-tune'],
      ],
      [['file', jsonl()]],
      [
        ['file', jsonl()],
        ['purpose', 'nonsense'],
      ],
      [
        ['file', jsonl()],
        ['file', jsonl()],
        ['purpose', 'fine-tune'],
      ],
    ] as [string, string | File][][]) {
      const answer = await t.call('POST', '/v1/files', { body: form(parts) });
      expect(answer.status).toBe(400);
    }
    expect(await t.stored()).toEqual(before);
    expect(await t.database.db.$count(files)).toBe(rows);
  });
});

describe('GET /v1/files', () => {
  it('pages by time in both directions, also past a cursor that was deleted', async () => {
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) ids.push(await t.upload('x', { purpose: 'evals', filename: `${i}.txt` }));
    const newest = ids.toReversed();

    const first = await t.call('GET', '/v1/files?purpose=evals&limit=2');
    expect(first.json).toMatchObject({
      object: 'list',
      has_more: true,
      first_id: newest[0],
      last_id: newest[1],
    });
    expect(first.json.data.map((file: { id: string }) => file.id)).toEqual(newest.slice(0, 2));
    await t.call('DELETE', `/v1/files/${newest[1]}`);
    const second = await t.call('GET', `/v1/files?purpose=evals&limit=2&after=${newest[1]}`);
    expect(second.json.data.map((file: { id: string }) => file.id)).toEqual(newest.slice(2, 4));
    const last = await t.call('GET', `/v1/files?purpose=evals&limit=2&after=${newest[3]}`);
    expect(last.json).toMatchObject({ has_more: false, first_id: newest[4], last_id: newest[4] });

    const ascending = await t.call('GET', `/v1/files?purpose=evals&order=asc&after=${ids[0]}`);
    expect(ascending.json.data.map((file: { id: string }) => file.id)).toEqual([ids[1], ids[2], ids[4]]);
    const none = await t.call('GET', '/v1/files?purpose=assistants_output');
    expect(none.json).toEqual({ object: 'list', data: [], has_more: false, first_id: null, last_id: null });
  });

  it('refuses a cursor the project never had', async () => {
    const foreign = await t.upload(TEN_ROWS, { key: t.bob.key });
    for (const after of [foreign, 'file-nothing']) {
      const answer = await t.call('GET', `/v1/files?after=${after}`);
      expect([answer.status, answer.json.error.code, answer.json.error.param]).toEqual([
        400,
        'invalid_value',
        'after',
      ]);
    }
  });
});

describe('one file', () => {
  it('is retrieved, downloaded byte for byte, deleted and gone', async () => {
    const id = await t.upload(TEN_ROWS);
    const found = await t.call('GET', `/v1/files/${id}`);
    expect(found.json).toMatchObject({ id, object: 'file', filename: 'train.jsonl' });
    const content = await t.call('GET', `/v1/files/${id}/content`);
    expect(content.text).toBe(TEN_ROWS);
    expect(content.headers.get('content-type')).toBe('application/octet-stream');
    expect(content.headers.get('content-length')).toBe(String(Buffer.byteLength(TEN_ROWS)));
    expect(content.headers.get('content-disposition')).toBe('attachment; filename="train.jsonl"');
    expect(content.headers.get('x-content-type-options')).toBe('nosniff');

    const removed = await t.call('DELETE', `/v1/files/${id}`);
    expect(removed.json).toEqual({ id, object: 'file', deleted: true });
    expect((await t.stored()).some((file) => file.includes(id))).toBe(false);
    for (const [method, url] of [
      ['GET', `/v1/files/${id}`],
      ['GET', `/v1/files/${id}/content`],
      ['DELETE', `/v1/files/${id}`],
    ] as const) {
      const gone = await t.call(method, url);
      expect(gone.status).toBe(404);
      expect(gone.json.error).toEqual({
        message: `No such File object: ${id}`,
        type: 'invalid_request_error',
        param: 'id',
        code: null,
      });
    }
  });

  it('hands out any range of its bytes', async () => {
    const id = await t.upload('0123456789', { purpose: 'evals', filename: 'x.txt' });
    const range = (value: string) => t.call('GET', `/v1/files/${id}/content`, { headers: { range: value } });
    const part = await range('bytes=3-5');
    expect([part.status, part.text, part.headers.get('content-range')]).toEqual([206, '345', 'bytes 3-5/10']);
    expect([(await range('bytes=-2')).text, (await range('bytes=8-99')).text]).toEqual(['89', '89']);
    const behind = await range('bytes=10-');
    expect([behind.status, behind.json.error.code, behind.headers.get('content-range')]).toEqual([
      416,
      'range_not_satisfiable',
      'bytes */10',
    ]);
    const empty = await t.upload('', { purpose: 'evals', filename: 'x.txt' });
    const nothing = await t.call('GET', `/v1/files/${empty}/content`);
    expect([nothing.status, nothing.text, nothing.headers.get('content-length')]).toEqual([200, '', '0']);
  });

  it('keeps the bytes of a deleted file that a job still reads', async () => {
    const id = await t.upload(TEN_ROWS);
    const job = await t.call('POST', '/v1/fine_tuning/jobs', {
      json: { model: 'Qwen/Qwen3-tiny', training_file: id },
    });
    expect(job.status).toBe(200);
    await t.call('DELETE', `/v1/files/${id}`);
    expect((await t.call('GET', `/v1/files/${id}`)).status).toBe(404);
    expect((await t.stored()).some((file) => file.includes(id))).toBe(true);
  });

  it('is gone when its time is over', async () => {
    const id = await t.upload(TEN_ROWS);
    await t.database.db
      .update(files)
      .set({ expiresAt: new Date(Date.now() - 1000) })
      .where(eq(files.id, id));
    expect((await t.call('GET', `/v1/files/${id}`)).status).toBe(404);
    const job = await t.call('POST', '/v1/fine_tuning/jobs', {
      json: { model: 'Qwen/Qwen3-tiny', training_file: id },
    });
    expect(job.json.error.message).toBe(`invalid training_file: ${id}`);
  });

  it.each(['assistants', 'user_data'])('is not handed out for purpose %s', async (purpose) => {
    const id = await t.upload('x', { purpose, filename: 'x.txt' });
    const answer = await t.call('GET', `/v1/files/${id}/content`);
    expect(answer.status).toBe(400);
    expect(answer.json.error.message).toBe(`Not allowed to download files of purpose: ${purpose}`);
  });

  it.each([
    ['../../etc/passwd.jsonl', 'passwd.jsonl', 'attachment; filename="passwd.jsonl"'],
    ['..\\..\\boot.jsonl', 'boot.jsonl', 'attachment; filename="boot.jsonl"'],
    [
      'dätä – 訓練.jsonl',
      'dätä – 訓練.jsonl',
      /^attachment; filename="d_t_ _ __\.jsonl"; filename\*=UTF-8''d%C3%A4t%C3%A4/,
    ],
    ['a"b.jsonl', 'a%22b.jsonl', /filename="a%22b\.jsonl"; filename\*=UTF-8''a%2522b\.jsonl/],
    ['100%.jsonl', '100%.jsonl', /filename\*=UTF-8''100%25\.jsonl/],
    ['x\u202egpj.jsonl', 'xgpj.jsonl', 'attachment; filename="xgpj.jsonl"'],
    ['a;b=c.jsonl', 'a;b=c.jsonl', 'attachment; filename="a;b=c.jsonl"'],
  ])('shows the name %s as %s', async (given, shown, header) => {
    const answer = await t.call('POST', '/v1/files', {
      body: form([
        ['purpose', 'fine-tune'],
        ['file', jsonl(TEN_ROWS, given)],
      ]),
    });
    expect(answer.json.filename).toBe(shown);
    const content = await t.call('GET', `/v1/files/${answer.json.id}/content`);
    expect(content.headers.get('content-disposition')).toMatch(header);
    expect(content.text).toBe(TEN_ROWS);
  });
});
