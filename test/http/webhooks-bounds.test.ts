/** How many deliveries of webhooks a project may have: the oldest are dropped, visibly, and nobody else's. */
import { sql } from 'drizzle-orm';
import { expect, it } from 'vitest';
import { sweepOnce } from '../../src/domain/sweep/run.ts';
import { deliverDue, dropOverflow, startWebhookDelivery } from '../../src/domain/webhooks/deliver.ts';
import { dropBeyond, removeEnded } from '../../src/domain/webhooks/outbox-repository.ts';
import type { Tenant } from '../helpers/app.ts';
import { useReceiver } from './webhook-receiver.ts';

const MAX = 5;
const { t, receiver } = useReceiver({ maxWebhookDeliveries: MAX });
const DROPPED = `dropped: more than ${MAX} deliveries of the project waited`;

async function hookOf(tenant: Tenant): Promise<string> {
  const json = { name: 'x', url: `${receiver.origin}/${tenant.projectId}`, event_types: ['batch.failed'] };
  return (await t.call('POST', '/v1/webhook_endpoints', { key: tenant.key, json })).json.id;
}
async function emit(tenant: Tenant, from: number, to: number): Promise<void> {
  for (let n = from; n < to; n++)
    await t.database.db.execute(
      sql`select lathe_emit_webhook(${tenant.projectId}, 'batch.failed', ${`batch_${n}`})`,
    );
}
const state = async (tenant: Tenant) =>
  (await receiver.outbox())
    .filter((row) => row.project_id === tenant.projectId)
    .map((row) => ({
      id: JSON.parse(row.body as string).data.id as string,
      error: row.abandoned_at === null ? null : row.last_error,
    }));
const logged = (from: number) =>
  t.logged
    .slice(from)
    .map((line) => JSON.parse(line))
    .filter((line) => line.msg.startsWith('webhook deliveries dropped'));

it('drops the oldest that wait, keeps their rows and says so once', async () => {
  for (const tenant of [t.alice, t.bob]) await hookOf(tenant);
  await emit(t.alice, 0, MAX + 3);
  await emit(t.bob, 0, MAX);
  const from = t.logged.length;
  await dropOverflow(t);
  const rows = await state(t.alice);
  expect(rows.slice(0, 3)).toEqual([0, 1, 2].map((n) => ({ id: `batch_${n}`, error: DROPPED })));
  expect(rows.slice(3).every((row) => row.error === null)).toBe(true);
  expect((await state(t.bob)).every((row) => row.error === null)).toBe(true);
  await dropOverflow(t);
  expect(logged(from)).toMatchObject([
    { level: 40, project_id: t.alice.projectId, deliveries: 3, max: MAX, oldest: expect.any(String) },
  ]);
  await deliverDue(t);
  const told = receiver.received.filter(({ path }) => path === `/${t.alice.projectId}`);
  expect(told.map(({ body }) => JSON.parse(body).data.id).sort()).toEqual(
    [3, 4, 5, 6].map((n) => `batch_${n}`), // as many as an endpoint may have under way, the oldest that were left
  );
});

it('drops nothing that is on its way, and nothing at all without a limit', async () => {
  await hookOf(t.alice);
  await emit(t.alice, 0, MAX + 2);
  await t.database.db.execute(sql`
    update webhook_deliveries set taken_until = clock_timestamp() + interval '1 minute'
    where body like '%"batch_0"%'`);
  await dropOverflow({ ...t, config: { ...t.config, maxWebhookDeliveries: 0 } });
  expect((await state(t.alice)).every((row) => row.error === null)).toBe(true);
  const dropped = await dropBeyond(t.database.db, MAX);
  expect(dropped).toMatchObject([{ project_id: t.alice.projectId, deliveries: 1 }]);
  expect((await state(t.alice)).slice(0, 2).map((row) => row.error)).toEqual([null, DROPPED]);
});

it('keeps the delivery loop within the limit while the receiver is silent', async () => {
  await hookOf(t.alice);
  receiver.answer = 'silence';
  await emit(t.alice, 0, 40);
  const delivery = startWebhookDelivery(t);
  const waiting = async () => (await state(t.alice)).filter((row) => row.error === null).length;
  await expect.poll(waiting, { timeout: 5_000 }).toBeLessThanOrEqual(MAX + 4); // four may be on their way
  receiver.answer = 200; // what is connecting now must not wait for its time to be up
  receiver.hangUp();
  await delivery.stop();
});

it('remembers the newest ended ones of each project', async () => {
  for (const tenant of [t.alice, t.bob]) await hookOf(tenant);
  await emit(t.alice, 0, MAX + 4);
  await emit(t.bob, 0, 2);
  await t.database.db.execute(sql`update webhook_deliveries set delivered_at = clock_timestamp()`);
  await emit(t.alice, 100, 101);
  const { removed } = await sweepOnce(t);
  expect(removed['webhooks delivered or given up']).toBe(4);
  const ids = (await state(t.alice)).map((row) => row.id);
  expect(ids).toEqual([4, 5, 6, 7, 8, 100].map((n) => `batch_${n}`));
  expect(await state(t.bob)).toHaveLength(2);
  expect(await removeEnded(t.database.db, 3600, 0)).toBe(0);
});
