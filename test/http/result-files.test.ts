/** The content of result files: CSV as it is, or base64 of it for scripts that decode what OpenAI sends. */
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { eq } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';
import { files } from '../../src/db/schema.ts';
import { asBase64, base64Length } from '../../src/domain/files/base64.ts';
import { useApp } from '../helpers/app.ts';

const CSV = 'step,train_loss\n1,0.5\n2,0.25\n';

describe.each([false, true])('with LATHE_RESULT_FILES_BASE64=%s', (resultFilesBase64) => {
  const t = useApp({ resultFilesBase64 });
  const wanted = resultFilesBase64 ? Buffer.from(CSV).toString('base64') : CSV;

  it('a result file is what its readers expect, in whole and in part', async () => {
    const id = await t.upload(CSV, { purpose: 'user_data', filename: 'step_metrics.csv' });
    await t.database.db.update(files).set({ purpose: 'fine-tune-results' }).where(eq(files.id, id));
    const whole = await t.call('GET', `/v1/files/${id}/content`);
    expect([whole.status, whole.text]).toEqual([200, wanted]);
    expect(whole.headers.get('content-length')).toBe(String(wanted.length));
    const part = await t.call('GET', `/v1/files/${id}/content`, { headers: { range: 'bytes=5-' } });
    expect([part.status, part.text]).toEqual([206, wanted.slice(5)]);
  });

  it('other files are their bytes', async () => {
    const id = await t.upload(CSV, { purpose: 'evals', filename: 'a.csv' });
    expect((await t.call('GET', `/v1/files/${id}/content`)).text).toBe(CSV);
  });
});

it('any range of any bytes in any pieces is that range of their base64', async () => {
  for (const length of [0, 1, 2, 3, 4, 5, 100]) {
    const bytes = randomBytes(length);
    const text = bytes.toString('base64');
    expect(base64Length(length)).toBe(text.length);
    for (const size of [1, 2, 7, 64]) {
      const open = asBase64(length, async ({ start, end = length - 1 } = { start: 0 }) => {
        const part = bytes.subarray(start, end + 1);
        const pieces = Math.ceil(part.length / size);
        return Readable.from(
          Array.from({ length: pieces }, (_, i) => part.subarray(i * size, (i + 1) * size)),
        );
      });
      const read = async (range?: { start: number; end: number }) =>
        Buffer.concat(await Readable.from(await open(range)).toArray()).toString();
      expect(await read()).toBe(text);
      for (let start = 0; start < text.length; start += 3)
        for (let end = start; end < text.length; end += 5)
          expect(await read({ start, end })).toBe(text.slice(start, end + 1));
    }
  }
});
