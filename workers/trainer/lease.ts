/**
 * Holds a claimed job while an attempt runs: renews the lease, looks for requests to cancel or pause every second, and lets go on
 * its own clock before the database would. Knows nothing of what the attempt does.
 */
import type { Database } from '../../src/db/client.ts';
import type { Log } from '../../src/log.ts';
import { checkRequests, type Fence, heartbeat, LeaseLost } from '../../src/queue/queue.ts';
import { reasonOf } from './retry.ts';

export interface LeaseTimes {
  leaseSeconds: number;
  heartbeatSeconds: number;
}

/** A cancel or a pause must act within two seconds; this leaves one for stopping the child. */
const REQUEST_CHECK_SECONDS = 0.75;

/** A sixth of the lease (5 s of 30 s) is kept back: by then the child is dead, before anyone may claim the job. */
const TRUSTED_SHARE = 5 / 6;

export interface Lease {
  stop(): void;
}

export interface LeaseEvents {
  /** Somebody else has the job, it has ended, or the lease could not be renewed in time. Called once; renewing stops. */
  onLost: (reason: LeaseLost) => void;
  /** The user asked to cancel. Called once; the lease is kept until the attempt has stopped. */
  onCancel: () => void;
  /** The user asked to pause. Called once; likewise. */
  onPause: () => void;
}

/**
 * Starts renewing. Trust counts on the monotonic clock from the moment a renewal was *sent*: a slow answer does not
 * extend it.
 *
 * @param claimedAt performance.now() from before the claim was sent
 */
export function holdLease(
  database: Database,
  fence: Fence,
  claimedAt: number,
  times: LeaseTimes,
  log: Log,
  events: LeaseEvents,
): Lease {
  const trustMs = times.leaseSeconds * 1000 * TRUSTED_SHARE;
  const tickMs = 1000 * Math.min(REQUEST_CHECK_SECONDS, times.heartbeatSeconds);
  let renewedAt = claimedAt;
  let ended = false;
  let cancelled = false;
  let paused = false;
  let tickTimer: NodeJS.Timeout | undefined;
  let trustTimer: NodeJS.Timeout | undefined;

  const stop = () => {
    ended = true;
    clearTimeout(tickTimer);
    clearTimeout(trustTimer);
  };
  const lose = (reason: LeaseLost) => {
    if (ended) return;
    stop();
    events.onLost(reason);
  };
  const armTrust = () => {
    clearTimeout(trustTimer);
    const left = Math.max(0, renewedAt + trustMs - performance.now());
    trustTimer = setTimeout(() => {
      log.error(
        { trust_ms: trustMs },
        'the lease could not be renewed: stopping before anyone may claim the job',
      );
      lose(new LeaseLost(fence));
    }, left);
  };

  const tick = async () => {
    const sentAt = performance.now();
    const due = sentAt - renewedAt >= times.heartbeatSeconds * 1000;
    try {
      const { cancelRequested, pauseRequested } = due
        ? await heartbeat(database, fence, times.leaseSeconds)
        : await checkRequests(database, fence);
      if (ended) return;
      if (due) {
        renewedAt = sentAt;
        armTrust();
      }
      if (cancelRequested && !cancelled) {
        cancelled = true;
        events.onCancel();
      } else if (pauseRequested && !paused) {
        paused = true;
        events.onPause();
      }
    } catch (error) {
      if (error instanceof LeaseLost) return lose(error);
      // The database is away or slow; the trust timer decides how long that may last.
      log.warn({ reason: reasonOf(error) }, 'heartbeat failed; trying again');
    }
    if (!ended) tickTimer = setTimeout(tick, tickMs);
  };

  armTrust();
  tickTimer = setTimeout(tick, tickMs);
  return { stop };
}
