/**
 * What the parts of one attempt share, and its child: started, listened to, told to leave. Knows no order of events;
 * that is run-job.ts.
 */
import type { Config } from '../../src/config.ts';
import type { Database } from '../../src/db/client.ts';
import type { Log } from '../../src/log.ts';
import { type Fence, message } from '../../src/queue/queue.ts';
import type { Storage } from '../../src/storage/storage.ts';
import type { DeviceOptions } from '../engine/device.ts';
import { TrainerChild } from './child-process.ts';
import type { Failpoint, Failpoints } from './failpoints.ts';
import type { FromChild } from './messages.ts';
import { HandedOver, Paused } from './outcomes.ts';
import { type ProgressWriter, stepEvent } from './progress.ts';
import { reasonOf, unlessAborted, untilDone } from './retry.ts';
import type { CheckpointUploader } from './uploads.ts';

export interface Worker {
  id: string;
  config: Config;
  database: Database;
  storage: Storage;
  log: Log;
  /** What the child opens. */
  device: DeviceOptions;
  /** Aborted when this worker is told to leave. */
  drain: AbortSignal;
  failpoints: readonly Failpoint[];
  /** Folder of this process for the working files of its attempts. */
  scratch: string;
  /** Where a base model lies on this machine; the registered folder may be another machine's. */
  folderOf: (model: { id: string; location: string }) => string;
}

/** What the parts of one attempt share. */
export interface Attempt {
  worker: Worker;
  fence: Fence;
  log: Log;
  /** This attempt's folder; gone with it. */
  scratch: string;
  /** Aborted with the reason why the attempt must not go on: a lost lease, a cancel, a failed write. */
  stop: AbortController;
  /** Aborted when the user asked to cancel, also while the attempt already ends for another reason. */
  cancelled: AbortController;
  /** Aborted when nothing may be written any more: the lease is lost or the attempt is over. */
  closed: AbortController;
  progress: ProgressWriter;
  loggingSteps: number;
  failpoints: Failpoints;
  /** Steps up to this one were announced by earlier attempts; they are the same and not told again. */
  announced: number;
  child: TrainerChild | null;
  uploader: CheckpointUploader | null;
}

/** Repeats what fails because database or storage are away, until the attempt is over. */
export function retryOf(attempt: Attempt): <T>(work: () => Promise<T>) => Promise<T> {
  return (work) =>
    untilDone(attempt.closed.signal, work, (err, wait_ms) =>
      attempt.log.warn({ reason: reasonOf(err), wait_ms }, 'trying again'),
    );
}

/** Waits for `work`, which may take as long as storage is away, unless this worker is to leave. @throws HandedOver */
export async function unlessLeaving<T>({ worker: { drain } }: Attempt, work: Promise<T>): Promise<T> {
  return unlessAborted(drain, work).catch((error: unknown) => {
    throw drain.aborted && error === drain.reason ? new HandedOver('this worker is leaving') : error;
  });
}

/** Starts the child and ties it to the attempt's end and to this worker's leaving. */
export function startChild(attempt: Attempt): TrainerChild {
  const { worker, log, stop } = attempt;
  stop.signal.throwIfAborted();
  if (worker.drain.aborted) throw new HandedOver('this worker is leaving');
  const child = new TrainerChild({
    stallSeconds: worker.config.stallSeconds,
    onMessage: (told) => hear(attempt, told),
    onOutput: (line) => log.info({ child_pid: child.pid, line }, 'child output'),
  });
  attempt.child = child;
  log.info({ child_pid: child.pid }, 'child started');
  const leave = () => {
    child.send({ type: 'stop' });
    setTimeout(
      () => child.kill(new HandedOver('the child did not stop in time')),
      worker.config.drainSeconds * 1000,
    ).unref();
  };
  worker.drain.addEventListener('abort', leave);
  void child.exited.then(() => worker.drain.removeEventListener('abort', leave));
  return child;
}

/** The user asked to pause: the child saves at its next step and leaves; without a child the attempt ends at once. */
export function pauseAttempt(attempt: Attempt): void {
  const { worker, child, stop } = attempt;
  const reason = new Paused(`job ${attempt.fence.jobId} is to be paused`);
  if (!child) {
    stop.abort(reason);
    return;
  }
  child.send({ type: 'pause' });
  setTimeout(() => child.kill(reason), worker.config.drainSeconds * 1000).unref();
}

/** What the child tells while it trains. */
function hear(attempt: Attempt, told: FromChild): void {
  const { progress, stop, failpoints } = attempt;
  if (told.type === 'warning') progress.add(message('warn', told.message));
  if (told.type === 'checkpoint') {
    attempt.uploader?.add(told).catch((error: Error) => stop.abort(error));
  }
  if (told.type !== 'step') return;
  failpoints.hit(`supervisor.step.${told.step}`);
  const { step, totalSteps, epoch, trainedTokens, train } = told;
  if (step <= attempt.announced) return;
  const isNamed =
    step % attempt.loggingSteps === 0 || step === totalSteps || told.validation || told.fullValidation;
  progress.add(isNamed ? stepEvent(told) : null, {
    progress: { step, total_steps: totalSteps, epoch },
    trainedTokens,
    ...(train && { finishInSeconds: train.etaSeconds }),
  });
}
