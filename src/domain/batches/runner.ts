/**
 * Runs batches in the background of an API process. Any number of processes may: a batch is held by one at a time
 * through a lease, and one whose process died is taken up by another where its written answers end.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { newId } from '../../ids.ts';
import { ObjectNotFound } from '../../storage/storage.ts';
import type { AnswerRequest } from '../answer-request.ts';
import type { Dependencies } from '../dependencies.ts';
import type { Identity } from '../keys/lookup.ts';
import { Slots } from '../slots.ts';
import { execute } from './execute.ts';
import { finish } from './finish.ts';
import { Load, Pause } from './idle-capacity.ts';
import { findLines, LINES_MAX } from './input.ts';
import { cancelWithoutKey } from './key-repository.ts';
import {
  answeredLines,
  claimBatch,
  describeHold,
  failHeld,
  type Hold,
  HoldLost,
  releaseHold,
  renewHold,
  startHeld,
} from './queue-repository.ts';
import { validateInput } from './validate.ts';

/** Batches that one process works on at a time; they share its places for requests. */
const HELD_MAX = 4;
/** How often the lease is renewed, which is also how soon a cancel is seen. */
const RENEW_MS = 1_000;
/** Wait before a batch that broke off is tried again, by how often it did. */
const BACKOFF_SECONDS = [1, 5, 30, 120, 600];

type Deps = Dependencies & { ask: AnswerRequest };

export interface BatchRunner {
  /** Leaves every batch at once and gives it back; answers that are there are written first. */
  stop(): Promise<void>;
}

/** Reasons to leave a batch that are no failure. */
class Left extends Error {
  override name = 'Left';
}
const ENDED = new Left('the batch is cancelled or has expired');
const STOPPED = new Left('the runner stops');

/** Starts looking for batches, unless the configuration leaves them to other processes. */
export function startBatchRunner(deps: Deps): BatchRunner {
  if (deps.config.batchConcurrency === 0) return { stop: async () => {} };
  const stopping = new AbortController();
  const holding = new Set<Promise<void>>();
  const runnerId = newId('worker_');
  const shared = { slots: new Slots(deps.config.batchConcurrency), load: new Load(deps) };

  const look = async () => {
    while (!stopping.signal.aborted) {
      const hold = holding.size < HELD_MAX ? await claim() : null;
      if (!hold) {
        await sleep(deps.config.pollMilliseconds, undefined, { signal: stopping.signal }).catch(() => {});
        continue;
      }
      const story = live(deps, hold, shared, stopping.signal).finally(() => holding.delete(story));
      holding.add(story);
    }
  };
  const claim = async (): Promise<Hold | null> => {
    try {
      return await claimBatch(deps.database.leases, runnerId, deps.config.leaseSeconds);
    } catch (error) {
      deps.log.warn({ err: error }, 'cannot look for batches');
      return null;
    }
  };
  const looking = look();
  return {
    stop: async () => {
      stopping.abort(STOPPED);
      await looking;
      await Promise.all(holding);
    },
  };
}

/** One hold from claim to release; never rejects. */
async function live(
  deps: Deps,
  hold: Hold,
  shared: { slots: Slots; load: Load },
  stopping: AbortSignal,
): Promise<void> {
  const log = deps.log.child({ batch: hold.id, epoch: hold.epoch });
  const left = new AbortController();
  const ended = new AbortController();
  const onStop = () => left.abort(STOPPED);
  stopping.addEventListener('abort', onStop, { once: true });
  const renewing = renew(deps, hold, left, ended);
  let crashes = 0;
  try {
    if (await cancelWithoutKey(deps.database.db, hold)) log.info('batch ends with its key');
    const described = await describeHold(deps.database.db, hold);
    crashes = described.batch.crashes + 1;
    log.info({ status: described.batch.status }, 'batch taken');
    const outcome = await story({ ...deps, log }, hold, described, shared, left.signal, ended.signal).catch(
      (error: unknown) => {
        if (error instanceof ObjectNotFound) return failWithoutInput(deps, hold);
        throw error;
      },
    );
    log.info({ outcome }, 'batch ended');
  } catch (error) {
    const leaving = left.signal.aborted && left.signal.reason === STOPPED;
    if (error instanceof HoldLost) log.warn('batch lost to another runner');
    else {
      if (!leaving) log.error({ err: error }, 'batch broke off');
      const wait = leaving ? 0 : (BACKOFF_SECONDS[Math.min(crashes, BACKOFF_SECONDS.length) - 1] ?? 1);
      await releaseHold(deps.database.leases, hold, wait, !leaving).catch((failure: unknown) =>
        log.warn({ err: failure }, 'batch not given back: its lease will end'),
      );
    }
  } finally {
    stopping.removeEventListener('abort', onStop);
    left.abort(STOPPED);
    await renewing;
  }
}

/** The input is gone from storage, and no later try would find it. */
async function failWithoutInput({ database }: Deps, hold: Hold): Promise<'failed'> {
  const message = 'The input file can no longer be read: its content is missing.';
  const error = { code: 'invalid_input_file', message, param: 'input_file_id', line: null };
  await database.transaction((tx) => failHeld(tx, hold, [error]));
  return 'failed';
}

/** Keeps the lease until `left`; says when the batch is to end, and leaves it when the lease cannot be trusted. */
async function renew(deps: Deps, hold: Hold, left: AbortController, ended: AbortController): Promise<void> {
  let trustedUntil = performance.now() + deps.config.leaseSeconds * 1000;
  while (!left.signal.aborted) {
    await sleep(RENEW_MS, undefined, { signal: left.signal }).catch(() => {});
    if (left.signal.aborted) return;
    const sent = performance.now();
    try {
      await cancelWithoutKey(deps.database.leases, hold);
      const { status, overdue } = await renewHold(deps.database.leases, hold, deps.config.leaseSeconds);
      trustedUntil = sent + deps.config.leaseSeconds * 1000;
      if (status === 'cancelling' || overdue) ended.abort(ENDED);
    } catch (error) {
      // The database may come back; the lease is let go before another runner may take it.
      if (error instanceof HoldLost || performance.now() > trustedUntil - 2 * RENEW_MS)
        left.abort(new HoldLost(hold));
    }
  }
}

/** Validate, run, finish: whatever of it is still to do. */
async function story(
  deps: Deps,
  hold: Hold,
  { batch, storageKey, organization }: Awaited<ReturnType<typeof describeHold>>,
  shared: { slots: Slots; load: Load },
  left: AbortSignal,
  ended: AbortSignal,
) {
  const places = await findLines(deps.storage, storageKey);
  let model = batch.model;
  let overdue = batch.expiresAt.getTime() <= Date.now();
  if (batch.status === 'validating') {
    const verdict = await validateInput(deps, batch, storageKey, places, left);
    if ('errors' in verdict) {
      await deps.database.transaction((tx) => failHeld(tx, hold, verdict.errors));
      return 'failed';
    }
    model = verdict.model;
    const started = await startHeld(deps.database.db, hold, places.length, model);
    overdue ||= started.status === 'cancelling';
  }
  const answered = await answeredLines(deps.database.db, hold);
  const open = () => places.slice(0, LINES_MAX).filter(({ number }) => !answered.has(number));
  if (open().length > 0 && batch.status !== 'cancelling' && !overdue && model !== null) {
    const identity: Identity = {
      ...{ kind: 'project', role: 'owner', scopes: [], organization },
      ...{ keyId: batch.keyId, projectId: batch.projectId },
    };
    const work = { hold, identity, endpoint: batch.endpoint, model, storageKey, places: open() };
    const means = { deps, ask: deps.ask, ...shared, pause: new Pause() };
    try {
      await execute(work, means, AbortSignal.any([left, ended]));
    } catch (error) {
      left.throwIfAborted();
      if (error !== ENDED) throw error;
    }
    for (const line of await answeredLines(deps.database.db, hold)) answered.add(line);
  }
  left.throwIfAborted();
  return finish(deps, hold, storageKey, open(), left);
}
