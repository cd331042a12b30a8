/** Deliveries of webhooks that do not go well: repeated, taken by two, cut off by kill -9, given up after days. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';
import { deliverDue, startWebhookDelivery, waitAfter } from '../../src/domain/webhooks/deliver.ts';
import { removeEnded } from '../../src/domain/webhooks/outbox-repository.ts';
import { PROGRAM_FLAGS } from '../helpers/programs.ts';
import { useReceiver } from './webhook-receiver.ts';

const { t, receiver } = useReceiver();

describe('delivery', () => {
  it.each([500, 404, 'redirect'] as const)(
    'tries again later after %s, with the same id and body',
    async (bad) => {
      const made = await receiver.hook();
      receiver.answer = bad;
      await receiver.cancelledJob();
      await deliverDue(t);
      expect(await receiver.outbox()).toMatchObject([
        { attempts: 1, delivered_at: null, abandoned_at: null, waits: true },
      ]);
      expect(receiver.received.map(({ path }) => path)).toEqual(['/hook']); // no redirect is followed
      expect((await receiver.endpointRow(made.id)).failing_since).not.toBeNull();
      await t.database.db.execute(sql`update webhook_deliveries set next_attempt_at = clock_timestamp()`);
      receiver.answer = 204;
      await deliverDue(t);
      expect(await receiver.outbox()).toMatchObject([{ attempts: 2, last_status: 204, last_error: null }]);
      expect(receiver.received[1]!.body).toBe(receiver.received[0]!.body);
      expect(receiver.received[1]!.headers['webhook-id']).toBe(receiver.received[0]!.headers['webhook-id']);
      expect((await receiver.endpointRow(made.id)).failing_since).toBeNull();
    },
  );

  it('comes again when its process died in the middle, and two processes do not send it twice', async () => {
    await receiver.hook();
    await receiver.cancelledJob();
    receiver.answer = 'silence';
    const dying = deliverDue(t); // takes it and never hears an answer
    await expect.poll(() => receiver.received.length).toBe(1);
    expect(await deliverDue(t)).toBe(0); // another process: it is taken
    receiver.answer = 200;
    await t.database.db.execute(sql`update webhook_deliveries set next_attempt_at = clock_timestamp()`); // the lease ran out
    expect(await deliverDue(t)).toBe(1);
    receiver.hangUp();
    await dying;
    expect(await receiver.outbox()).toMatchObject([{ attempts: 2, last_status: 200, last_error: null }]); // the late one wrote nothing
  });

  it('survives kill -9 of the process that sends', async () => {
    const made = await receiver.hook();
    receiver.answer = 'silence';
    const program = fileURLToPath(new URL('./webhook-child.ts', import.meta.url));
    const child = spawn(process.execPath, [...PROGRAM_FLAGS, program, t.database.url], { stdio: 'ignore' });
    const id = await receiver.cancelledJob();
    await expect.poll(() => receiver.received.length, { timeout: 20_000 }).toBe(1);
    child.kill('SIGKILL');
    await once(child, 'exit');
    receiver.answer = 200;
    expect(await deliverDue(t)).toBe(0); // still taken
    await t.database.db.execute(
      sql`update webhook_deliveries set next_attempt_at = next_attempt_at - interval '60 seconds'`,
    );
    expect(await deliverDue(t)).toBe(1);
    const [first, second] = receiver.received;
    expect(second!.headers['webhook-id']).toBe(first!.headers['webhook-id']);
    const event = await receiver.unwrap(made.signing_secret, second!);
    expect(event.data).toEqual({ id });
  });

  it('backs off over hours, gives an event up after three days, and switches a dead endpoint off', async () => {
    const waits = Array.from({ length: 12 }, (_, i) => waitAfter(i + 1, 60)!);
    expect(waits[0]).toBeLessThan(6);
    for (const [i, wait] of waits.entries())
      expect(wait).toBeGreaterThanOrEqual(i === 0 ? 5 : waits[i - 1]! * 0.9);
    expect(waits.at(-1)).toBeGreaterThanOrEqual(4 * 3600);
    expect(waitAfter(20, 4 * 86_400)).toBeNull();

    const made = await receiver.hook();
    receiver.answer = 500;
    await receiver.cancelledJob();
    await t.database.db.execute(
      sql`update webhook_endpoints set failing_since = clock_timestamp() - interval '121 hours' where id = ${made.id}`,
    );
    await deliverDue(t);
    expect(await receiver.webhooks.retrieve(made.id)).toMatchObject({ status: 'disabled' });
    await receiver.cancelledJob();
    expect((await receiver.outbox()).length).toBe(1); // nothing new is written for it
    await t.database.db.execute(sql`update webhook_deliveries set next_attempt_at = clock_timestamp()`);
    await deliverDue(t);
    expect((await receiver.outbox())[0]!.abandoned_at).not.toBeNull();
    expect(receiver.received).toHaveLength(1);
    expect(await receiver.webhooks.update(made.id, {})).toMatchObject({ status: 'enabled' });
    expect(await removeEnded(t.database.db, 0, 0)).toBe(1);
  });

  it('runs by itself until it is stopped', async () => {
    await receiver.hook();
    const delivery = startWebhookDelivery(t);
    await receiver.cancelledJob();
    await expect.poll(() => receiver.received.length).toBe(1);
    await delivery.stop();
    await receiver.cancelledJob();
    expect((await receiver.outbox()).filter((row) => row.delivered_at === null)).toHaveLength(1);
  });
});
