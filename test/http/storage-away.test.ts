/** What callers are told while the object storage is full or away: a 503 that names it, and nothing half done. */
import { expect, it } from 'vitest';
import { StorageUnavailable } from '../../src/storage/storage.ts';
import { TEN_ROWS, useApp } from '../helpers/app.ts';

const t = useApp();

/** An upload while storage.put fails like this. */
async function uploadWhile(error: Error) {
  const { put } = t.storage;
  t.storage.put = () => Promise.reject(error);
  const form = new FormData();
  form.set('purpose', 'fine-tune');
  form.set('file', new Blob([TEN_ROWS]), 'rows.jsonl');
  const answer = await t.call('POST', '/v1/files', { body: form });
  t.storage.put = put;
  return answer;
}

it('a full storage is named, and the SDK is told not to send the file again', async () => {
  const cause = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
  const answer = await uploadWhile(new StorageUnavailable('The storage is full.', { full: true, cause }));
  expect(answer.status).toBe(503);
  expect(answer.json.error).toMatchObject({ type: 'service_unavailable_error', code: 'storage_full' });
  expect(answer.headers.get('x-should-retry')).toBe('false');
  expect(answer.text).not.toMatch(/ENOSPC|device/);
  expect((await t.call('GET', '/v1/files')).json.data).toEqual([]);
});

it('a storage that is away is not taken for the database, and may be tried again', async () => {
  const cause = Object.assign(new Error('connect ECONNREFUSED 10.0.0.5:9000'), { code: 'ECONNREFUSED' });
  const answer = await uploadWhile(new StorageUnavailable('The storage cannot be reached.', { cause }));
  expect(answer.status).toBe(503);
  expect(answer.json.error).toMatchObject({ code: 'server_is_overloaded' });
  expect(answer.json.error.message).toMatch(/object storage/);
  expect(answer.headers.get('retry-after')).toBe('1');
  expect((await t.call('GET', '/v1/files')).json.data).toEqual([]);
  await t.upload(TEN_ROWS); // and it works once the storage is back
});
