/** The matrix: files and uploads, every parameter. */
import { createHash } from 'node:crypto';
import { NotFoundError } from 'openai';
import { describe, expect, it } from 'vitest';
import { chatRows, type Matrix } from './harness.ts';

export function filesMatrix(m: () => Matrix): void {
  describe('files', () => {
    it('create with every purpose, expires_after; retrieve, wait, content, delete', async () => {
      const { files } = m().client;
      const purposes = ['assistants', 'batch', 'fine-tune', 'vision', 'user_data', 'evals'] as const;
      for (const purpose of purposes) {
        const name = purpose === 'vision' ? 'a.png' : 'a.jsonl';
        const created = await files.create({
          file: new File([chatRows(1)], name),
          purpose,
          expires_after: { anchor: 'created_at', seconds: 7200 },
        });
        expect(created).toMatchObject({ object: 'file', purpose, filename: name, bytes: expect.any(Number) });
        expect(created.expires_at).toBe(created.created_at + 7200);
        expect(['uploaded', 'processed']).toContain(created.status);
        expect((await files.waitForProcessing(created.id, { pollInterval: 10 })).id).toBe(created.id);
        expect((await files.retrieve(created.id)).id).toBe(created.id);
        if (purpose === 'fine-tune') expect(await (await files.content(created.id)).text()).toBe(chatRows(1));
        expect(await files.delete(created.id)).toEqual({ id: created.id, object: 'file', deleted: true });
        await expect(files.retrieve(created.id)).rejects.toBeInstanceOf(NotFoundError);
      }
    });

    it('list by purpose, limit, order and after', async () => {
      const { files } = m().client;
      const made: string[] = [];
      for (let i = 0; i < 3; i++)
        made.push((await files.create({ file: new File([`${i}`], `${i}.txt`), purpose: 'user_data' })).id);
      const page = await files.list({ purpose: 'user_data', limit: 2, order: 'asc' });
      expect(page.data.map((file) => file.id)).toEqual(made.slice(0, 2));
      expect(page.has_more).toBe(true);
      const rest = await files.list({ purpose: 'user_data', order: 'asc', after: made[1]! });
      expect(rest.data.map((file) => file.id)).toEqual(made.slice(2));
      const newest: string[] = [];
      for await (const file of files.list({ purpose: 'user_data', limit: 1, order: 'desc' }))
        newest.push(file.id);
      expect(newest).toEqual(made.toReversed());
      for (const id of made) await files.delete(id);
    });
  });

  describe('uploads', () => {
    it('create, parts in parallel, complete with md5 and another order', async () => {
      const { uploads, files } = m().client;
      const [first, second] = [`${chatRows(3)}\n`, chatRows(3, 3)];
      const text = first + second;
      const upload = await uploads.create({
        filename: 'parts.jsonl',
        purpose: 'fine-tune',
        bytes: Buffer.byteLength(text),
        mime_type: 'application/jsonl',
        expires_after: { anchor: 'created_at', seconds: 3600 },
      });
      expect(upload).toMatchObject({ object: 'upload', status: 'pending', filename: 'parts.jsonl' });
      const [later, earlier] = await Promise.all([
        uploads.parts.create(upload.id, { data: new File([second], 'b') }),
        uploads.parts.create(upload.id, { data: new File([first], 'a') }),
      ]);
      expect(later).toMatchObject({ object: 'upload.part', upload_id: upload.id });
      const completed = await uploads.complete(upload.id, {
        part_ids: [earlier.id, later.id],
        md5: createHash('md5').update(text).digest('hex'),
      });
      expect(completed.status).toBe('completed');
      expect(completed.file).toMatchObject({
        object: 'file',
        purpose: 'fine-tune',
        bytes: Buffer.byteLength(text),
      });
      expect(await (await files.content(completed.file!.id)).text()).toBe(text);
    });

    it('cancel', async () => {
      const { uploads } = m().client;
      const upload = await uploads.create({
        filename: 'x',
        purpose: 'user_data',
        bytes: 3,
        mime_type: 'text/plain',
      });
      expect((await uploads.cancel(upload.id)).status).toBe('cancelled');
    });
  });
}
