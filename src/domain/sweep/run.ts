/**
 * Runs the sweeps: once, or again and again beside the API. One process of the installation sweeps at a time; the lock
 * goes with its connection, and two that sweep together all the same would only remove what is to be removed anyway.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Dependencies } from '../dependencies.ts';
import { tryLockSweep, unlockSweep } from './repository.ts';
import { SWEEPS, type Sweep } from './sweeps.ts';

export interface SweepReport {
  /** False when another process was sweeping: nothing was done. */
  ran: boolean;
  /** Removed things by the sweep's name. */
  removed: Record<string, number>;
  /** Sweeps that failed, with the reason; the others ran. */
  failed: Record<string, string>;
}

/** One round of every sweep. A sweep that fails is reported and does not keep the others from running. */
export async function sweepOnce(
  deps: Dependencies,
  signal: AbortSignal = new AbortController().signal,
  sweeps: readonly Sweep[] = SWEEPS,
): Promise<SweepReport> {
  const report: SweepReport = { ran: false, removed: {}, failed: {} };
  const client = await deps.database.pool.connect();
  let broken: Error | undefined;
  try {
    if (!(await tryLockSweep(client))) return report;
    report.ran = true;
    for (const sweep of sweeps) {
      if (signal.aborted) break;
      try {
        const removed = await sweep.run({ ...deps, signal });
        if (removed > 0) report.removed[sweep.name] = removed;
      } catch (error) {
        report.failed[sweep.name] = error instanceof Error ? error.message : String(error);
        deps.log.error({ err: error, sweep: sweep.name }, 'a sweep failed');
      }
    }
    await unlockSweep(client);
  } catch (error) {
    broken = error as Error;
    throw error;
  } finally {
    client.release(broken);
  }
  if (Object.keys(report.removed).length > 0) deps.log.info({ removed: report.removed }, 'swept');
  return report;
}

export interface Sweeper {
  /** Stops at the next item and waits for it. */
  stop(): Promise<void>;
}

/** Sweeps every `config.sweepSeconds` (0: never), a little more or less so that replicas do not ask all at once. */
export function startSweeper(deps: Dependencies): Sweeper {
  const leave = new AbortController();
  const seconds = deps.config.sweepSeconds;
  const running = seconds === 0 ? Promise.resolve() : sweepOften(deps, seconds, leave.signal);
  return {
    stop: () => {
      leave.abort();
      return running;
    },
  };
}

async function sweepOften(deps: Dependencies, seconds: number, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const wait = seconds * 1000 * (0.8 + 0.4 * Math.random());
    await sleep(wait, undefined, { signal, ref: false }).catch(() => {}); // woken: the loop ends
    if (signal.aborted) return;
    await sweepOnce(deps, signal).catch((error: unknown) => {
      deps.log.warn({ err: error }, 'the sweep could not run; it is tried again later');
    });
  }
}
