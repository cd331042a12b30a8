/** How an attempt that has no result ends: what each reason does to the job, after the child is gone. */
import {
  CancelRequested,
  cancel,
  crash,
  fail,
  LeaseLost,
  message,
  pause,
  release,
} from '../../src/queue/queue.ts';
import { type Attempt, retryOf } from './attempt.ts';
import { ChildCrashed, HandedOver, JobFailed, Paused } from './outcomes.ts';
import { reasonOf, unlessAborted } from './retry.ts';
import { removeRetired } from './uploads.ts';

export type JobOutcome =
  | 'succeeded'
  | 'failed'
  | 'cancelled'
  | 'paused'
  | 'handed_over'
  | 'interrupted'
  | 'lost';

/** Ends the attempt as `error` demands, after the child is gone and its committed checkpoints are recorded. */
export async function settle(attempt: Attempt, error: unknown): Promise<JobOutcome> {
  const { worker, fence, log } = attempt;
  const { database, config } = worker;
  const write = retryOf(attempt);
  attempt.child?.kill(error instanceof Error ? error : new Error(String(error)));
  await attempt.child?.exited;
  const removeAll = (retired: readonly string[]) => removeRetired(worker.storage, retired, log);
  try {
    if (error instanceof LeaseLost) throw error;
    if (!attempt.cancelled.signal.aborted) await keepCommitted(attempt);
    const endCancelled = async (): Promise<JobOutcome> => {
      await removeAll((await write(() => cancel(database, fence))).retired);
      return 'cancelled';
    };
    if (attempt.cancelled.signal.aborted || error instanceof CancelRequested) return await endCancelled();
    if (error instanceof JobFailed) {
      const details = error.details.map((detail) => message('error', detail.message, detail.data));
      await removeAll((await write(() => fail(database, fence, error.error, details))).retired);
      return 'failed';
    }
    if (error instanceof Paused) {
      attempt.failpoints.hit('pause.before_row');
      try {
        await write(() => pause(database, fence));
        return 'paused';
      } catch (later) {
        if (!(later instanceof CancelRequested)) throw later;
        return await endCancelled(); // asked while the checkpoint was saved
      }
    }
    if (error instanceof HandedOver) {
      await removeAll((await write(() => release(database, fence))).retired);
      return 'handed_over';
    }
    log.error({ err: error }, 'attempt failed');
    const reason = error instanceof ChildCrashed ? error.message : `internal error: ${reasonOf(error)}`;
    const { outcome, retired } = await write(() => crash(database, fence, reason, config));
    await removeAll(retired);
    return outcome === 'retried' ? 'interrupted' : outcome;
  } catch (lost) {
    if (!(lost instanceof LeaseLost)) throw lost;
    log.warn('the lease is lost: nothing more is written');
    return 'lost';
  }
}

/**
 * What was committed before the end still counts; where it cannot be kept (storage stays away, the user cancels
 * meanwhile), the end is told all the same. @throws LeaseLost
 */
async function keepCommitted({ worker, cancelled, uploader, progress, log }: Attempt): Promise<void> {
  const enough = AbortSignal.any([cancelled.signal, AbortSignal.timeout(1000 * worker.config.drainSeconds)]);
  for (const kept of [() => uploader?.drained(), () => progress.flush()]) {
    await unlessAborted(enough, Promise.resolve(kept())).catch((err: unknown) => {
      if (err instanceof LeaseLost) throw err;
      log.warn({ reason: reasonOf(err) }, 'a write of the ended attempt failed');
    });
  }
}
