/** Webhook endpoints through the SDK, and the end of a job told to them, verified with the SDK's own unwrap. */
import { describe, expect, it } from 'vitest';
import { transition } from '../../src/domain/jobs/states.ts';
import { deliverDue } from '../../src/domain/webhooks/deliver.ts';
import { addJob } from './rows.ts';
import { ALL_JOB_EVENTS, useReceiver } from './webhook-receiver.ts';

const { t, receiver } = useReceiver();

describe('endpoints, through the SDK', () => {
  it('are created with a secret that is shown once, listed, changed and deleted', async () => {
    const made = await receiver.hook();
    expect(made).toMatchObject({
      object: 'webhook_endpoint',
      id: expect.stringMatching(/^whe_[0-9A-Za-z]{24}$/),
      name: 'ci',
      url: `${receiver.origin}/hook`,
      event_types: [...ALL_JOB_EVENTS],
      signing_secret: expect.stringMatching(/^whsec_[A-Za-z0-9+/]{43}=$/),
      signing_secret_hint: `whsec_…${made.signing_secret.slice(-4)}`,
      created_at: expect.any(Number),
    });
    const { signing_secret: secret, ...shown } = made;
    const again = await receiver.webhooks.retrieve(made.id);
    expect(JSON.stringify(again)).not.toContain(secret.slice(6));
    expect(again).toEqual(shown);
    const second = await receiver.hook(['fine_tuning.job.failed']);
    const listed = [];
    for await (const each of receiver.webhooks.list({ limit: 1 })) listed.push(each.id);
    expect(listed).toEqual([second.id, made.id]);
    const changed = await receiver.webhooks.update(made.id, {
      name: 'new',
      event_types: ['batch.completed'],
    });
    expect(changed).toMatchObject({
      name: 'new',
      url: `${receiver.origin}/hook`,
      event_types: ['batch.completed'],
    });
    expect(await receiver.webhooks.delete(made.id)).toEqual({
      id: made.id,
      object: 'webhook_endpoint.deleted',
      deleted: true,
    });
    await expect(receiver.webhooks.retrieve(made.id)).rejects.toMatchObject({ status: 404 });
    expect((await receiver.webhooks.eventTypes.list()).data).toEqual(
      expect.arrayContaining([...ALL_JOB_EVENTS]),
    );
  });

  it('refuse what they cannot use, naming it', async () => {
    const create = async (json: object) => {
      const { status, json: body } = await t.call('POST', '/v1/webhook_endpoints', {
        json: { name: 'x', url: 'https://example.com', event_types: [ALL_JOB_EVENTS[0]], ...json },
      });
      return [status, body.error.param];
    };
    expect(await create({ url: 'no url' })).toEqual([400, 'url']);
    expect(await create({ url: 'ftp://example.com' })).toEqual([400, 'url']);
    expect(await create({ url: 'https://me:secret@example.com' })).toEqual([400, 'url']);
    expect(await create({ event_types: [] })).toEqual([400, 'event_types']);
    expect(await create({ event_types: ['fine_tuning.job.paused'] })).toEqual([400, 'event_types[0]']);
    expect(await create({ name: '' })).toEqual([400, 'name']);
  });

  it('can be tried out, and say when nobody is there', async () => {
    const made = await receiver.hook();
    const result = await receiver.webhooks.test(made.id, { event_type: 'fine_tuning.job.failed' });
    expect(result).toEqual({
      object: 'webhook_endpoint.test',
      webhook_endpoint_id: made.id,
      event_type: 'fine_tuning.job.failed',
      status_code: 200,
      success: true,
    });
    const event = await receiver.unwrap(made.signing_secret);
    expect(event.type).toBe('fine_tuning.job.failed');
    receiver.answer = 500;
    const failing = await receiver.webhooks.test(made.id, { event_type: 'fine_tuning.job.failed' });
    expect(failing.status_code).toBe(500);
    await receiver.webhooks.update(made.id, { url: 'http://127.0.0.1:1/' });
    await expect(receiver.webhooks.test(made.id, { event_type: ALL_JOB_EVENTS[0] })).rejects.toMatchObject({
      status: 400,
      code: 'webhook_not_reached',
      message: expect.stringContaining('ECONNREFUSED'),
    });
  });
});

describe('the end of a job', () => {
  it('is told to every endpoint that wants it, signed so that the SDK accepts it', async () => {
    const [all, failures] = [
      await receiver.hook(),
      await receiver.hook(['fine_tuning.job.failed'], '/failures'),
    ];
    const id = await receiver.cancelledJob();
    expect(await deliverDue(t)).toBe(1);
    const [call] = receiver.received;
    const event = await receiver.unwrap(all.signing_secret, call!);
    expect(event).toEqual({
      id: expect.stringMatching(/^evt_/),
      object: 'event',
      created_at: expect.any(Number),
      type: 'fine_tuning.job.cancelled',
      data: { id },
    });
    expect(call!.headers['webhook-id']).toBe(event.id);
    expect(call!.headers['content-type']).toBe('application/json');
    const forged = call!.body.replace(id, 'ftjob-other');
    await expect(receiver.unwrap(all.signing_secret, { ...call!, body: forged })).rejects.toThrow();
    await expect(receiver.unwrap(failures.signing_secret, call!)).rejects.toThrow();
    expect(await deliverDue(t)).toBe(0); // once
    const other = await addJob(t, t.alice);
    await transition(t.database.db, other, 'failed', null);
    await deliverDue(t);
    expect(
      receiver.received
        .slice(1)
        .map(({ path }) => path)
        .sort(),
    ).toEqual(['/failures', '/hook']);
    await addJob(t, t.bob).then((bobs) => transition(t.database.db, bobs, 'failed', null));
    expect(await deliverDue(t)).toBe(0); // another project's
  });

  it('is in the outbox when the state is, and not when it was rolled back', async () => {
    await receiver.hook();
    const id = await addJob(t, t.alice);
    const failing = t.database.transaction(async (tx) => {
      await transition(tx, id, 'failed', null);
      throw new Error('rolled back');
    });
    await expect(failing).rejects.toThrow('rolled back');
    expect(await receiver.outbox()).toEqual([]);
    await transition(t.database.db, id, 'failed', null);
    await transition(t.database.db, id, 'failed', null); // refused: it has ended
    expect((await receiver.outbox()).map((row) => row.event_type)).toEqual(['fine_tuning.job.failed']);
  });

  it('is signed with both secrets for a day after a rotation that keeps the old one', async () => {
    const made = await receiver.hook();
    const kept = await receiver.webhooks.rotateSecret(made.id, {
      keep_old_secret_active_for_24_hours: true,
    });
    expect(kept.signing_secret).not.toBe(made.signing_secret);
    await receiver.webhooks.test(made.id, { event_type: ALL_JOB_EVENTS[0] });
    const sample = receiver.received.pop()!;
    for (const secret of [made.signing_secret, kept.signing_secret]) await receiver.unwrap(secret, sample);
    await receiver.cancelledJob();
    await deliverDue(t);
    for (const secret of [made.signing_secret, kept.signing_secret]) await receiver.unwrap(secret);
    const last = await receiver.webhooks.rotateSecret(made.id);
    await receiver.cancelledJob();
    await deliverDue(t);
    const [, call] = receiver.received;
    await receiver.unwrap(last.signing_secret, call!);
    await expect(receiver.unwrap(kept.signing_secret, call!)).rejects.toThrow();
  });
});
