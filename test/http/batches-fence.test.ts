/** The end of a batch, written by a runner whose lease ran out meanwhile: what its successor has written stays. */
import { expect, it } from 'vitest';
import { finish } from '../../src/domain/batches/finish.ts';
import { findLines } from '../../src/domain/batches/input.ts';
import { claimBatch, HoldLost } from '../../src/domain/batches/queue-repository.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { BASE_MODEL, useApp } from '../helpers/app.ts';

const t = useApp();
const STAYS = new AbortController().signal;

async function cancelledBatch() {
  const body = { model: BASE_MODEL, messages: [{ role: 'user', content: 'x' }] };
  const line = JSON.stringify({ custom_id: 'a', method: 'POST', url: '/v1/chat/completions', body });
  const file = await t.upload(line, { purpose: 'batch', filename: 'in.jsonl' });
  const json = { input_file_id: file, endpoint: '/v1/chat/completions', completion_window: '24h' };
  const { id } = (await t.call('POST', '/v1/batches', { json })).json;
  await t.call('POST', `/v1/batches/${id}/cancel`);
  const key = `projects/${t.alice.projectId}/files/${file}`;
  return { id: id as string, key, places: await findLines(t.storage, key) };
}

it('a runner that was overtaken at the end removes no file of its successor', async () => {
  const { id, key, places } = await cancelledBatch();
  const first = (await claimBatch(t.database.db, 'one', 0))!;
  let reached = () => {};
  const listing = new Promise<void>((resolve) => (reached = resolve));
  let go = () => {};
  const gate = new Promise<void>((resolve) => (go = resolve));
  const slow: Storage = {
    ...t.storage,
    list: async function* (prefix) {
      reached();
      await gate;
      yield* t.storage.list(prefix);
    },
  };
  const overtaken = finish({ ...t, storage: slow }, first, key, places, STAYS);
  const failed = expect(overtaken).rejects.toThrow(HoldLost);
  await listing;

  const second = (await claimBatch(t.database.db, 'two', 30))!;
  expect([first.id, second.id, second.epoch]).toEqual([id, id, first.epoch + 1]);
  expect(await finish(t, second, key, [], STAYS)).toBe('cancelled');
  const { error_file_id: file } = (await t.call('GET', `/v1/batches/${id}`)).json;
  const before = await t.call('GET', `/v1/files/${file}/content`);
  expect(before.text).toContain('batch_cancelled');
  go();
  await failed;
  expect((await t.call('GET', `/v1/files/${file}/content`)).text).toBe(before.text);
});

it('a runner that is to leave writes no files', async () => {
  const { id, key, places } = await cancelledBatch();
  const hold = (await claimBatch(t.database.db, 'one', 30))!;
  expect(hold.id).toBe(id);
  const before = (await t.stored()).length;
  const left = AbortSignal.abort(new HoldLost(hold));
  await expect(finish(t, hold, key, places, left)).rejects.toThrow(HoldLost);
  expect((await t.stored()).length).toBe(before);
  expect((await t.call('GET', `/v1/batches/${id}`)).json.status).toBe('cancelling');
});
