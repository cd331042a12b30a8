/**
 * Whether the service can do its work: the database answers, storage answers, and some worker was heard of lately.
 */
import type { Dependencies } from '../dependencies.ts';
import { countLiveWorkers } from './repository.ts';

/** A worker may miss a few heartbeats while it restarts. */
const SEEN_SECONDS = 60;
const TIMEOUT_MS = 3_000;

export interface Readiness {
  status: 'ready' | 'not_ready';
  database: boolean;
  storage: boolean;
  workers: { trainer: number; inference: number };
}

export async function checkReadiness(
  deps: Pick<Dependencies, 'database' | 'storage' | 'log'>,
): Promise<Readiness> {
  const failed = (what: string) => (error: unknown) => {
    deps.log.warn({ err: error }, `${what} does not answer`);
    return null;
  };
  const [workers, storage] = await Promise.all([
    inTime(countLiveWorkers(deps.database.db, SEEN_SECONDS)).catch(failed('database')),
    inTime(deps.storage.head('readiness')).then(() => true, failed('storage')),
  ]);
  const seen = (workers?.trainer ?? 0) + (workers?.inference ?? 0);
  return {
    status: workers && storage && seen > 0 ? 'ready' : 'not_ready',
    database: workers !== null,
    storage: storage === true,
    workers: workers ?? { trainer: 0, inference: 0 },
  };
}

async function inTime<T>(answer: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${TIMEOUT_MS} ms`)), TIMEOUT_MS);
  });
  try {
    return await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
  }
}
