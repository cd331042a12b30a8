/** Webhooks end to end: managed with the SDK, delivered over real sockets, verified with the SDK's own unwrap. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { sql } from 'drizzle-orm';
import OpenAI from 'openai';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { requestCancel, transition } from '../../src/domain/jobs/states.ts';
import { isPublicAddress, publicLookup } from '../../src/domain/webhooks/addresses.ts';
import { deliverDue, startWebhookDelivery, waitAfter } from '../../src/domain/webhooks/deliver.ts';
import { removeEnded } from '../../src/domain/webhooks/outbox-repository.ts';
import { faultOf, send } from '../../src/domain/webhooks/send.ts';
import { useApp } from '../helpers/app.ts';
import { addJob } from './rows.ts';

const t = useApp({ webhookPrivateAddresses: true, webhookPollMilliseconds: 20 });

interface Received {
  path: string;
  headers: IncomingHttpHeaders;
  body: string;
}
let receiver: Server;
let origin: string;
let received: Received[] = [];
let answer: number | 'silence' | 'redirect' = 200;
let client: OpenAI;

beforeAll(async () => {
  receiver = createServer(async (request, response) => {
    received.push({ path: request.url!, headers: request.headers, body: await text(request) });
    if (answer === 'silence') return;
    if (answer === 'redirect') response.writeHead(302, { location: `${origin}/elsewhere` }).end();
    else response.writeHead(answer).end('x'.repeat(200_000));
  });
  receiver.listen(0, '127.0.0.1');
  await once(receiver, 'listening');
  origin = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}`;
  client = new OpenAI({ apiKey: t.alice.key, baseURL: await t.serve(), maxRetries: 0 });
});
afterAll(() => {
  receiver.closeAllConnections();
  receiver.close();
});
beforeEach(async () => {
  received = [];
  answer = 200;
  await t.database.db.execute(sql`delete from webhook_deliveries`);
  await t.database.db.execute(sql`delete from webhook_endpoints`);
});

const ALL = ['fine_tuning.job.succeeded', 'fine_tuning.job.failed', 'fine_tuning.job.cancelled'] as const;
const hook = (types: readonly (typeof ALL)[number][] = ALL, path = '/hook') =>
  client.webhooks.create({ name: 'ci', url: origin + path, event_types: [...types] });
const outbox = async () =>
  (
    await t.database.db.execute<Record<string, unknown>>(
      sql`select *, next_attempt_at - clock_timestamp() > interval '1 second' as waits from webhook_deliveries order by created_at`,
    )
  ).rows;
const endpointRow = async (id: string) =>
  (await t.database.db.execute(sql`select * from webhook_endpoints where id = ${id}`)).rows[0]!;
async function cancelledJob(): Promise<string> {
  const id = await addJob(t, t.alice);
  await requestCancel(t.database, t.alice.projectId, id);
  return id;
}

describe('endpoints, through the SDK', () => {
  it('are created with a secret that is shown once, listed, changed and deleted', async () => {
    const made = await hook();
    expect(made).toMatchObject({
      object: 'webhook_endpoint',
      id: expect.stringMatching(/^whe_[0-9A-Za-z]{24}$/),
      name: 'ci',
      url: `${origin}/hook`,
      event_types: [...ALL],
      signing_secret: expect.stringMatching(/^whsec_[A-Za-z0-9+/]{43}=$/),
      signing_secret_hint: `whsec_…${made.signing_secret.slice(-4)}`,
      created_at: expect.any(Number),
    });
    const { signing_secret: secret, ...shown } = made;
    const again = await client.webhooks.retrieve(made.id);
    expect(JSON.stringify(again)).not.toContain(secret.slice(6));
    expect(again).toEqual(shown);
    const second = await hook(['fine_tuning.job.failed']);
    const listed = [];
    for await (const each of client.webhooks.list({ limit: 1 })) listed.push(each.id);
    expect(listed).toEqual([second.id, made.id]);
    const changed = await client.webhooks.update(made.id, { name: 'new', event_types: ['batch.completed'] });
    expect(changed).toMatchObject({ name: 'new', url: `${origin}/hook`, event_types: ['batch.completed'] });
    expect(await client.webhooks.delete(made.id)).toEqual({
      id: made.id,
      object: 'webhook_endpoint.deleted',
      deleted: true,
    });
    await expect(client.webhooks.retrieve(made.id)).rejects.toMatchObject({ status: 404 });
    expect((await client.webhooks.eventTypes.list()).data).toEqual(expect.arrayContaining([...ALL]));
  });

  it('refuse what they cannot use, naming it', async () => {
    const create = async (json: object) => {
      const { status, json: body } = await t.call('POST', '/v1/webhook_endpoints', {
        json: { name: 'x', url: 'https://example.com', event_types: [ALL[0]], ...json },
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
    const made = await hook();
    const result = await client.webhooks.test(made.id, { event_type: 'fine_tuning.job.failed' });
    expect(result).toEqual({
      object: 'webhook_endpoint.test',
      webhook_endpoint_id: made.id,
      event_type: 'fine_tuning.job.failed',
      status_code: 200,
      success: true,
    });
    const event = await client.webhooks.unwrap(
      received[0]!.body,
      received[0]!.headers as never,
      made.signing_secret,
    );
    expect(event.type).toBe('fine_tuning.job.failed');
    answer = 500;
    const failing = await client.webhooks.test(made.id, { event_type: 'fine_tuning.job.failed' });
    expect(failing.status_code).toBe(500);
    await client.webhooks.update(made.id, { url: 'http://127.0.0.1:1/' });
    await expect(client.webhooks.test(made.id, { event_type: ALL[0] })).rejects.toMatchObject({
      status: 400,
      code: 'webhook_not_reached',
      message: expect.stringContaining('ECONNREFUSED'),
    });
  });
});

describe('the end of a job', () => {
  it('is told to every endpoint that wants it, signed so that the SDK accepts it', async () => {
    const [all, failures] = [await hook(), await hook(['fine_tuning.job.failed'], '/failures')];
    const id = await cancelledJob();
    expect(await deliverDue(t)).toBe(1);
    const [call] = received;
    const event = await client.webhooks.unwrap(call!.body, call!.headers as never, all.signing_secret);
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
    await expect(
      client.webhooks.unwrap(forged, call!.headers as never, all.signing_secret),
    ).rejects.toThrow();
    await expect(
      client.webhooks.unwrap(call!.body, call!.headers as never, failures.signing_secret),
    ).rejects.toThrow();
    expect(await deliverDue(t)).toBe(0); // once
    const other = await addJob(t, t.alice);
    await transition(t.database.db, other, 'failed', null);
    await deliverDue(t);
    expect(
      received
        .slice(1)
        .map(({ path }) => path)
        .sort(),
    ).toEqual(['/failures', '/hook']);
    await addJob(t, t.bob).then((bobs) => transition(t.database.db, bobs, 'failed', null));
    expect(await deliverDue(t)).toBe(0); // another project's
  });

  it('is in the outbox when the state is, and not when it was rolled back', async () => {
    await hook();
    const id = await addJob(t, t.alice);
    const failing = t.database.transaction(async (tx) => {
      await transition(tx, id, 'failed', null);
      throw new Error('rolled back');
    });
    await expect(failing).rejects.toThrow('rolled back');
    expect(await outbox()).toEqual([]);
    await transition(t.database.db, id, 'failed', null);
    await transition(t.database.db, id, 'failed', null); // refused: it has ended
    expect((await outbox()).map((row) => row.event_type)).toEqual(['fine_tuning.job.failed']);
  });

  it('is signed with both secrets for a day after a rotation that keeps the old one', async () => {
    const made = await hook();
    const kept = await client.webhooks.rotateSecret(made.id, { keep_old_secret_active_for_24_hours: true });
    expect(kept.signing_secret).not.toBe(made.signing_secret);
    await client.webhooks.test(made.id, { event_type: ALL[0] });
    const sample = received.pop()!;
    for (const secret of [made.signing_secret, kept.signing_secret])
      await client.webhooks.unwrap(sample.body, sample.headers as never, secret);
    await cancelledJob();
    await deliverDue(t);
    for (const secret of [made.signing_secret, kept.signing_secret])
      await client.webhooks.unwrap(received[0]!.body, received[0]!.headers as never, secret);
    const last = await client.webhooks.rotateSecret(made.id);
    await cancelledJob();
    await deliverDue(t);
    const [, call] = received;
    await client.webhooks.unwrap(call!.body, call!.headers as never, last.signing_secret);
    await expect(
      client.webhooks.unwrap(call!.body, call!.headers as never, kept.signing_secret),
    ).rejects.toThrow();
  });
});

describe('delivery', () => {
  it.each([500, 404, 'redirect'] as const)(
    'tries again later after %s, with the same id and body',
    async (bad) => {
      const made = await hook();
      answer = bad;
      await cancelledJob();
      await deliverDue(t);
      expect(await outbox()).toMatchObject([
        { attempts: 1, delivered_at: null, abandoned_at: null, waits: true },
      ]);
      expect(received.map(({ path }) => path)).toEqual(['/hook']); // no redirect is followed
      expect((await endpointRow(made.id)).failing_since).not.toBeNull();
      await t.database.db.execute(sql`update webhook_deliveries set next_attempt_at = clock_timestamp()`);
      answer = 204;
      await deliverDue(t);
      expect(await outbox()).toMatchObject([{ attempts: 2, last_status: 204, last_error: null }]);
      expect(received[1]!.body).toBe(received[0]!.body);
      expect(received[1]!.headers['webhook-id']).toBe(received[0]!.headers['webhook-id']);
      expect((await endpointRow(made.id)).failing_since).toBeNull();
    },
  );

  it('comes again when its process died in the middle, and two processes do not send it twice', async () => {
    await hook();
    await cancelledJob();
    answer = 'silence';
    const dying = deliverDue(t); // takes it and never hears an answer
    await expect.poll(() => received.length).toBe(1);
    expect(await deliverDue(t)).toBe(0); // another process: it is taken
    answer = 200;
    await t.database.db.execute(sql`update webhook_deliveries set next_attempt_at = clock_timestamp()`); // the lease ran out
    expect(await deliverDue(t)).toBe(1);
    receiver.closeAllConnections();
    await dying;
    expect(await outbox()).toMatchObject([{ attempts: 2, last_status: 200, last_error: null }]); // the late one wrote nothing
  });

  it('survives kill -9 of the process that sends', async () => {
    const made = await hook();
    answer = 'silence';
    const program = fileURLToPath(new URL('./webhook-child.ts', import.meta.url));
    const child = spawn(process.execPath, [program, t.database.url], { stdio: 'ignore' });
    const id = await cancelledJob();
    await expect.poll(() => received.length, { timeout: 20_000 }).toBe(1);
    child.kill('SIGKILL');
    await once(child, 'exit');
    answer = 200;
    expect(await deliverDue(t)).toBe(0); // still taken
    await t.database.db.execute(
      sql`update webhook_deliveries set next_attempt_at = next_attempt_at - interval '60 seconds'`,
    );
    expect(await deliverDue(t)).toBe(1);
    const [first, second] = received;
    expect(second!.headers['webhook-id']).toBe(first!.headers['webhook-id']);
    const event = await client.webhooks.unwrap(second!.body, second!.headers as never, made.signing_secret);
    expect(event.data).toEqual({ id });
  });

  it('backs off over hours, gives an event up after three days, and switches a dead endpoint off', async () => {
    const waits = Array.from({ length: 12 }, (_, i) => waitAfter(i + 1, 60)!);
    expect(waits[0]).toBeLessThan(6);
    for (const [i, wait] of waits.entries())
      expect(wait).toBeGreaterThanOrEqual(i === 0 ? 5 : waits[i - 1]! * 0.9);
    expect(waits.at(-1)).toBeGreaterThanOrEqual(4 * 3600);
    expect(waitAfter(20, 4 * 86_400)).toBeNull();

    const made = await hook();
    answer = 500;
    await cancelledJob();
    await t.database.db.execute(
      sql`update webhook_endpoints set failing_since = clock_timestamp() - interval '121 hours' where id = ${made.id}`,
    );
    await deliverDue(t);
    expect(await client.webhooks.retrieve(made.id)).toMatchObject({ status: 'disabled' });
    await cancelledJob();
    expect((await outbox()).length).toBe(1); // nothing new is written for it
    await t.database.db.execute(sql`update webhook_deliveries set next_attempt_at = clock_timestamp()`);
    await deliverDue(t);
    expect((await outbox())[0]!.abandoned_at).not.toBeNull();
    expect(received).toHaveLength(1);
    expect(await client.webhooks.update(made.id, {})).toMatchObject({ status: 'enabled' });
    expect(await removeEnded(t.database.db, 0)).toBe(1);
  });

  it('runs by itself until it is stopped', async () => {
    await hook();
    const delivery = startWebhookDelivery(t);
    await cancelledJob();
    await expect.poll(() => received.length).toBe(1);
    await delivery.stop();
    await cancelledJob();
    expect((await outbox()).filter((row) => row.delivered_at === null)).toHaveLength(1);
  });
});

describe('the guard against private addresses', () => {
  const closed = { allowPrivate: false, timeoutMilliseconds: 1_000 };

  it.each([
    ...['0.0.0.0', '10.1.2.3', '100.64.0.1', '127.0.0.1', '127.255.255.255', '169.254.169.254', '172.16.0.1'],
    ...[
      '172.31.255.255',
      '192.168.1.1',
      '192.0.0.8',
      '198.18.0.1',
      '224.0.0.1',
      '255.255.255.255',
      '::',
      '::1',
    ],
    ...[
      '::ffff:127.0.0.1',
      '::ffff:10.0.0.1',
      '64:ff9b::7f00:1',
      '2002:7f00:1::',
      'fc00::1',
      'fd12::1',
      'fe80::1',
    ],
    ...['ff02::1', '::127.0.0.1', 'fec0::1', 'not-an-address'],
  ])('%s is private', (address) => expect(isPublicAddress(address)).toBe(false));

  it.each(['1.1.1.1', '8.8.8.8', '172.32.0.1', '100.128.0.1', '2606:4700::1111', '::ffff:8.8.8.8'])(
    '%s is public',
    (address) => expect(isPublicAddress(address)).toBe(true),
  );

  it.each([
    ...[
      'http://example.com/',
      'https://127.0.0.1/',
      'https://2130706433/',
      'https://0x7f.1/',
      'https://0177.0.0.1/',
    ],
    ...[
      'https://[::1]/',
      'https://[::ffff:127.0.0.1]/',
      'https://localhost/',
      'https://a.localhost./',
      'https://①②⑦.0.0.1/',
    ],
    ...[
      'https://169.254.169.254/latest/meta-data',
      'file:///etc/passwd',
      'gopher://example.com',
      'https://u@example.com',
    ],
  ])('%s is refused', async (url) => {
    expect(faultOf(url, closed)).not.toBeNull();
    expect(await send(url, {}, '{}', closed)).toMatchObject({ status: null });
  });

  it('looks at the address that is connected to: a name that resolves to a private one is refused', async () => {
    const error = await new Promise((resolve) => publicLookup('localhost', { all: true }, (e) => resolve(e)));
    expect(error).toMatchObject({ name: 'AddressRefused' });
    expect(faultOf('https://example.com/', closed)).toBeNull();
  });

  it('gives up on a receiver that does not answer', async () => {
    answer = 'silence';
    const sent = await send(`${origin}/slow`, {}, '{}', { allowPrivate: true, timeoutMilliseconds: 100 });
    expect(sent).toEqual({ status: null, error: 'no answer in time' });
  });
});
