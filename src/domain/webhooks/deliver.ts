/**
 * Carries the outbox to its receivers, at least once: what is due is taken for a while, sent, and noted. Any number of
 * processes may do it at once, and one that dies in the middle loses nothing. Places are filled as they become free, so
 * receivers that do not answer keep their own places and no others.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Dependencies } from '../dependencies.ts';
import {
  abandonUnwanted,
  type DueDelivery,
  dropBeyond,
  markDelivered,
  markFailed,
  takeDue,
} from './outbox-repository.ts';
import { secretBox } from './sealed-secret.ts';
import { type Sent, send } from './send.ts';
import { signedHeaders } from './signature.ts';

type Deps = Pick<Dependencies, 'database' | 'config' | 'log'>;

const TIMEOUT_MS = 10_000;
/** Longer than an attempt can take. */
const LEASE_SECONDS = 60;
/** Attempts of one process at once; they wait for the network and little else. */
const AT_ONCE = 32;
/** At least, between two looks while deliveries end, so that one serves several; a slow look rests as long as it took. */
const PAUSE_MS = 10;
/** Between two looks at how many deliveries wait. */
const COUNT_MS = 5_000;
/** Waits after the first, second, … failure; the last one repeats until the event is too old. */
const BACKOFF_SECONDS = [5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400];
const GIVE_UP_SECONDS = 3 * 86_400;

/** Sends what is due now and may be taken. @returns how many deliveries were tried */
export async function deliverDue(deps: Deps): Promise<number> {
  await abandonUnwanted(deps.database.db);
  const due = await takeDue(deps.database, AT_ONCE, LEASE_SECONDS);
  await Promise.all(due.map((delivery) => deliver(deps, delivery)));
  return due.length;
}

/** Gives up the oldest of what waits where a project has more than it may, and says so. */
export async function dropOverflow({ database, config, log }: Deps): Promise<void> {
  const max = config.maxWebhookDeliveries;
  if (max === 0) return;
  for (const dropped of await dropBeyond(database.db, max))
    log.warn({ ...dropped, max }, 'webhook deliveries dropped: too many of the project wait');
}

async function attempt({ config }: Pick<Deps, 'config'>, delivery: DueDelivery): Promise<Sent> {
  const box = secretBox(config.encryptionKeys);
  const [secret, old] = [delivery.secret, delivery.old_secret].map((stored) =>
    stored === null ? null : box.open(stored, delivery.endpoint_id),
  );
  if (!secret) return { status: null, error: 'no configured key opens the signing secret' };
  const headers = signedHeaders(delivery.event_id, delivery.body, old ? [secret, old] : [secret], new Date());
  const guard = { allowPrivate: config.webhookPrivateAddresses, timeoutMilliseconds: TIMEOUT_MS };
  return send(delivery.url, headers, delivery.body, guard);
}

async function deliver(deps: Deps, delivery: DueDelivery): Promise<void> {
  const { database, config, log } = deps;
  const sent = await attempt(deps, delivery);
  const line = { delivery: delivery.id, endpoint: delivery.endpoint_id, attempt: delivery.attempts, ...sent };
  if (sent.status !== null && sent.status >= 200 && sent.status < 300) {
    await markDelivered(database.db, delivery, sent.status);
    return log.info(line, 'webhook delivered');
  }
  const wait = waitAfter(delivery.attempts, delivery.age_seconds);
  await markFailed(database.db, delivery, sent, wait, config.webhookDisableHours * 3_600);
  log.warn({ ...line, next_in_seconds: wait }, 'webhook not delivered');
}

/** Seconds until the next attempt, with up to a tenth of chance, or null: the event is three days old. */
export function waitAfter(attempts: number, ageSeconds: number): number | null {
  if (ageSeconds > GIVE_UP_SECONDS) return null;
  const wait = BACKOFF_SECONDS[Math.min(attempts, BACKOFF_SECONDS.length) - 1]!;
  return wait * (1 + Math.random() / 10);
}

/** Delivers until stopped; an idle look costs three short statements. */
export function startWebhookDelivery(deps: Deps): { stop(): Promise<void> } {
  const leave = new AbortController();
  const { signal } = leave;
  const underWay = new Set<Promise<void>>();
  const away = (err: unknown) => deps.log.warn({ err }, 'webhooks cannot be delivered at the moment');
  let countedAt = Number.NEGATIVE_INFINITY;
  const look = async () => {
    await abandonUnwanted(deps.database.db);
    if (performance.now() - countedAt > COUNT_MS) {
      countedAt = performance.now();
      await dropOverflow(deps);
    }
    for (const delivery of await takeDue(deps.database, AT_ONCE - underWay.size, LEASE_SECONDS)) {
      const sending = deliver(deps, delivery)
        .catch(away)
        .finally(() => underWay.delete(sending));
      underWay.add(sending);
    }
  };
  const pause = (milliseconds: number, until: AbortSignal) =>
    sleep(milliseconds, undefined, { signal: until, ref: false }).catch(() => {}); // woken: the loop looks again
  const work = async () => {
    while (!signal.aborted) {
      const started = performance.now();
      if (underWay.size < AT_ONCE) await look().catch(away);
      const took = performance.now() - started;
      const looked = new AbortController();
      await Promise.race([
        pause(deps.config.webhookPollMilliseconds, AbortSignal.any([signal, looked.signal])),
        ...underWay,
      ]);
      looked.abort();
      await pause(Math.max(PAUSE_MS, took), signal);
    }
  };
  const working = work();
  return {
    stop: async () => {
      leave.abort();
      await working;
      await Promise.all(underWay);
    },
  };
}
