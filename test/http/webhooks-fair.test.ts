/** Webhooks of many projects at once: receivers that never answer hold up their own project alone. */
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startWebhookDelivery } from '../../src/domain/webhooks/deliver.ts';
import { takeDue } from '../../src/domain/webhooks/outbox-repository.ts';
import { type Tenant, useApp } from '../helpers/app.ts';

const t = useApp({ webhookPrivateAddresses: true, webhookPollMilliseconds: 20 });
let receiver: Server;
let origin: string;
const calls: { path: string; at: number }[] = [];
const seen = (path: string) => calls.filter((call) => call.path === path).length;

beforeAll(async () => {
  receiver = createServer((request, response) => {
    calls.push({ path: request.url!, at: performance.now() });
    if (request.url !== '/hangs') response.end();
  });
  receiver.listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  origin = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}`;
});
afterAll(() => {
  receiver.closeAllConnections();
  receiver.close();
});

async function hook(tenant: Tenant, path: string): Promise<string> {
  const json = { name: path, url: origin + path, event_types: ['batch.failed'] };
  return (await t.call('POST', '/v1/webhook_endpoints', { key: tenant.key, json })).json.id;
}
const emit = (tenant: Tenant) =>
  t.database.db.execute(sql`select lathe_emit_webhook(${tenant.projectId}, 'batch.failed', 'batch_x')`);

it('take their share and no more, whoever takes, and give the next place to who has least', async () => {
  const endpoints = [
    await hook(t.alice, '/hangs'),
    await hook(t.alice, '/hangs'),
    await hook(t.alice, '/hangs'),
  ];
  for (let i = 0; i < 10; i++) await emit(t.alice);
  const both = await Promise.all([takeDue(t.database, 100, 60), takeDue(t.database, 100, 60)]);
  const taken = both.flat();
  expect(taken).toHaveLength(8);
  for (const id of endpoints)
    expect(taken.filter((each) => each.endpoint_id === id).length).toBeLessThanOrEqual(4);
  expect(await takeDue(t.database, 100, 60)).toEqual([]);
  await t.database.db.execute(
    sql`update webhook_deliveries set taken_until = clock_timestamp() where id = ${taken[0]!.id}`,
  ); // its process died
  const bob = await hook(t.bob, '/answers');
  await emit(t.bob);
  expect((await takeDue(t.database, 1, 60)).map((each) => each.endpoint_id)).toEqual([bob]);
  expect(await takeDue(t.database, 100, 60)).toHaveLength(1);
  await t.database.db.execute(sql`delete from webhook_deliveries`);
});

it('that hang do not delay another project', async () => {
  for (let i = 0; i < 20; i++) await emit(t.alice);
  const delivery = startWebhookDelivery(t);
  await expect.poll(() => seen('/hangs')).toBe(8);
  const emitted = performance.now();
  for (let i = 0; i < 40; i++) await emit(t.bob);
  await expect.poll(() => seen('/answers'), { timeout: 5_000 }).toBe(40);
  expect(calls.find(({ path }) => path === '/answers')!.at - emitted).toBeLessThan(2_000);
  expect(seen('/hangs')).toBe(8);
  receiver.closeAllConnections(); // or each would be waited for to its end
  await delivery.stop();
});

it('that are tried out are a few of a project at once', async () => {
  const [hanging, answering] = [await hook(t.alice, '/hangs'), await hook(t.bob, '/answers')];
  const before = seen('/hangs');
  const attempt = (id: string, key: string) =>
    t.call('POST', `/v1/webhook_endpoints/${id}/test`, { key, json: { event_type: 'batch.failed' } });
  const waiting = Array.from({ length: 4 }, () => attempt(hanging, t.alice.key));
  await expect.poll(() => seen('/hangs') - before).toBe(4);
  const refused = await attempt(hanging, t.alice.key);
  expect([refused.status, refused.json.error.code]).toEqual([429, 'too_many_webhook_tests']);
  expect((await attempt(answering, t.bob.key)).status).toBe(200);
  receiver.closeAllConnections();
  for (const answer of await Promise.all(waiting))
    expect([answer.status, answer.json.error.code]).toEqual([400, 'webhook_not_reached']);
  const again = attempt(hanging, t.alice.key);
  await expect.poll(() => seen('/hangs') - before).toBe(5);
  receiver.closeAllConnections();
  expect((await again).status).toBe(400);
});
