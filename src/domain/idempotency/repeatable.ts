/**
 * A creation that may be asked for twice and happens once: the first request holds the key while it works, later ones
 * wait and get its answer. A holder that dies is succeeded by the next request with the same seed, so that an object it
 * had already made is found again under the same id. Knows nothing of HTTP but the number of a status.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { conflict, idempotencyKeyInUse } from '../../errors.ts';
import { randomBase62 } from '../../ids.ts';
import type { Dependencies } from '../dependencies.ts';
import { findKey, forgetKey, type Held, holdKey, renewHold, storeAnswer } from './repository.ts';

/** A holder that has not renewed for this long is gone. */
const HOLD_SECONDS = 10;
const RENEW_MS = 3_000;
/** Longer than a hold, so that whoever waits for a dead holder takes over instead of giving up. */
const WAIT_MS = 15_000;
/** The first look is after this long, later ones after half as long again, but at least every so often. */
const POLL_MS = { first: 50, most: 500 };

export interface Repeatable {
  /** Project, or organization for admin keys. */
  projectId: string;
  key: string;
  /** Same request = same fingerprint. */
  fingerprint: string;
  keepSeconds: number;
  /** The caller knows that this request is no repetition. */
  anew: boolean;
}

export interface Answer {
  status: number;
  body: string;
}

type Deps = Pick<Dependencies, 'database' | 'log'>;

/**
 * The stored answer, or null after `work` has run under the key (beside it when `anew` meets an equal request at work). `work` gets the seed for the new object's id and
 * returns the answer to store: only successes (2xx) are kept. Throws ApiError 409 when the key was used for another
 * request, or when the first one takes too long.
 */
export async function once(
  deps: Deps,
  request: Repeatable,
  work: (seed: string) => Promise<Answer>,
  signal: AbortSignal,
): Promise<Answer | null> {
  const { projectId, key } = request;
  const held: Held = { projectId, key, holder: randomBase62(24) };
  const end = performance.now() + WAIT_MS;
  let pause = POLL_MS.first;
  for (;;) {
    const hold = { ...request, ...held, seed: randomBase62(24), holdSeconds: HOLD_SECONDS };
    const seed = await holdKey(deps.database.db, hold);
    if (seed !== null) {
      await runHeld(deps, held, seed, work);
      return null;
    }
    if (request.anew) {
      // An equal request is at work: it keeps the key, so that its own repetitions find what it made.
      await work(randomBase62(24));
      return null;
    }
    const found = await findKey(deps.database.db, projectId, key);
    if (found && found.fingerprint !== request.fingerprint) {
      const message = 'This Idempotency-Key was used for a request with another body or path. Use a new key.';
      throw conflict(message, 'idempotency_key_reused');
    }
    if (found?.status != null) return { status: found.status, body: found.body ?? '' };
    if (performance.now() > end || signal.aborted) throw idempotencyKeyInUse();
    await sleep(pause);
    pause = Math.min(pause * 1.5, POLL_MS.most);
  }
}

/** Runs `work` and keeps the hold alive meanwhile; what becomes of the key depends on how it ends. */
async function runHeld(
  { database, log }: Deps,
  held: Held,
  seed: string,
  work: (seed: string) => Promise<Answer>,
): Promise<void> {
  const renewal = setInterval(() => {
    renewHold(database.db, held, HOLD_SECONDS).catch((error) => log.warn({ err: error }, 'hold not renewed'));
  }, RENEW_MS);
  try {
    const answer = await work(seed);
    if (answer.status >= 200 && answer.status < 300) {
      await storeAnswer(database.db, held, answer.status, answer.body);
    } else if (answer.status >= 500) {
      await renewHold(database.db, held, 0); // it may have been made: the seed stays for the next try
    } else await forgetKey(database.db, held);
  } finally {
    clearInterval(renewal);
  }
}
