/** Signing secrets at rest: sealed under the operator's key, readable from before there was one, moved to a new key. */
import { randomBytes } from 'node:crypto';
import { sql } from 'drizzle-orm';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { deliverDue } from '../../src/domain/webhooks/deliver.ts';
import { changeEndpoint, getEndpoint, rotateSecret } from '../../src/domain/webhooks/endpoints.ts';
import { secretBox } from '../../src/domain/webhooks/sealed-secret.ts';
import { useReceiver } from './webhook-receiver.ts';

const [FIRST, SECOND] = [randomBytes(32).toString('base64'), randomBytes(32).toString('base64')] as const;
const { t, receiver } = useReceiver({ encryptionKeys: [FIRST] });
const project = () => t.alice.projectId;
/** The same service under other keys. */
const under = (...encryptionKeys: string[]) => ({ ...t, config: { ...t.config, encryptionKeys } });
const stored = async (id: string) => (await receiver.endpointRow(id)) as Record<string, string | null>;

describe('a sealed secret', () => {
  it('opens for its endpoint alone, under its key alone, and not when a bit of it was changed', () => {
    const box = secretBox([FIRST]);
    const [one, two] = [box.seal('whsec_abc', 'whe_1'), box.seal('whsec_abc', 'whe_1')];
    expect(one).not.toBe(two);
    expect(one).toMatch(/^sealed\.v1\.[0-9a-f]{8}\.[\w-]+$/);
    expect(box.open(one, 'whe_1')).toBe('whsec_abc');
    expect(secretBox([SECOND, FIRST]).open(one, 'whe_1')).toBe('whsec_abc');
    expect(secretBox([SECOND]).open(one, 'whe_1')).toBeNull();
    expect(secretBox([]).open(one, 'whe_1')).toBeNull();
    expect(() => box.open(one, 'whe_2')).toThrow();
    const bytes = Buffer.from(one.split('.').at(-1)!, 'base64url');
    for (const at of [0, 12, 28, bytes.length - 1]) {
      const changed = Buffer.from(bytes);
      changed[at]! ^= 1;
      const text = [...one.split('.').slice(0, -1), changed.toString('base64url')].join('.');
      expect(() => box.open(text, 'whe_1')).toThrow();
    }
  });
});

describe('the secrets of endpoints', () => {
  it('are in no column in the clear, are shown once and sign', async () => {
    const made = await receiver.hook();
    const kept = await receiver.webhooks.rotateSecret(made.id, { keep_old_secret_active_for_24_hours: true });
    const row = await stored(made.id);
    expect(JSON.stringify(row)).not.toMatch(/whsec_/);
    for (const column of [row.secret, row.old_secret]) expect(column).toMatch(/^sealed\.v1\./);
    expect((await receiver.webhooks.retrieve(made.id)).signing_secret_hint).toBe(
      `whsec_…${kept.signing_secret.slice(-4)}`,
    );
    await receiver.webhooks.test(made.id, { event_type: 'fine_tuning.job.failed' });
    await receiver.cancelledJob();
    await deliverDue(t);
    for (const call of receiver.received)
      for (const secret of [made.signing_secret, kept.signing_secret]) await receiver.unwrap(secret, call);
    expect(receiver.received).toHaveLength(2);
  });

  it('from before there was a key stay valid, and are sealed by the next write', async () => {
    const made = await receiver.hook();
    const plain = made.signing_secret;
    await t.database.db.execute(sql`update webhook_endpoints set secret = ${plain}, old_secret = ${plain}`);
    await receiver.cancelledJob();
    await deliverDue(t);
    await receiver.unwrap(plain);
    await receiver.webhooks.update(made.id, { name: 'renamed' });
    const row = await stored(made.id);
    expect([row.secret, row.old_secret].join()).not.toContain('whsec_');
    expect((await getEndpoint(t, project(), made.id)).secret).toBe(plain);

    await t.database.db.execute(sql`update webhook_endpoints set secret = ${plain}, old_secret = null`);
    const { secret } = await rotateSecret(t, project(), made.id, true);
    expect(await getEndpoint(t, project(), made.id)).toMatchObject({ secret, oldSecret: plain });
    expect(JSON.stringify(await stored(made.id))).not.toContain('whsec_');
  });

  it('move to a new key when they are written, and are not lost with an old one', async () => {
    const made = await receiver.hook();
    const both = under(SECOND, FIRST);
    expect((await getEndpoint(both, project(), made.id)).secret).toBe(made.signing_secret);
    await changeEndpoint(both, project(), made.id, { name: 'moved' });
    expect((await getEndpoint(under(SECOND), project(), made.id)).secret).toBe(made.signing_secret);

    const before = await stored(made.id);
    expect((await getEndpoint(t, project(), made.id)).secret).toBeNull(); // only the other key is here
    expect((await receiver.webhooks.retrieve(made.id)).signing_secret_hint).toBeNull();
    await changeEndpoint(t, project(), made.id, { name: 'seen without its key' });
    expect((await stored(made.id)).secret).toBe(before.secret);
    await receiver.cancelledJob();
    await deliverDue(t);
    expect(receiver.received).toEqual([]);
    expect(await receiver.outbox()).toMatchObject([
      { attempts: 1, last_error: 'no configured key opens the signing secret', waits: true },
    ]);
    await t.database.db.execute(sql`update webhook_deliveries set next_attempt_at = clock_timestamp()`);
    await deliverDue(both);
    await receiver.unwrap(made.signing_secret);
  });

  it('lie as text where no key is configured', async () => {
    const made = await receiver.hook();
    const { secret } = await rotateSecret(under(), project(), made.id, false);
    expect((await stored(made.id)).secret).toBe(secret);
  });
});

it('LATHE_ENCRYPTION_KEY takes 32 bytes in base64, several too, and shows nothing of a bad one', () => {
  const load = (value: string) => loadConfig({ LATHE_ENCRYPTION_KEY: value });
  expect(load(FIRST).encryptionKeys).toEqual([FIRST]);
  expect(load(`${SECOND}, ${FIRST}`).encryptionKeys).toEqual([SECOND, FIRST]);
  expect(loadConfig({}).encryptionKeys).toEqual([]);
  for (const bad of ['secretsecret', FIRST.slice(1), `${FIRST},`, randomBytes(16).toString('base64')])
    expect(() => load(bad)).toThrow(
      /^LATHE_ENCRYPTION_KEY=\(hidden\) is not valid: expected 32 bytes in base64/,
    );
});
