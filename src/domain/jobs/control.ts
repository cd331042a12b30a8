/**
 * Looks at jobs, stops them, puts them to rest and wakes them. Unknown and foreign ids are answered alike.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Queryable } from '../../db/client.ts';
import { ApiError, badRequest, invalidValue, jobAlreadyTerminal, noSuchJob } from '../../errors.ts';
import type { Dependencies } from '../dependencies.ts';
import { requireJobSlot } from '../quotas/quotas.ts';
import {
  findJob,
  isPartOfJob,
  type JobQuery,
  type JobRow,
  jobsOfArchived,
  listCheckpoints,
  listEvents,
  listJobs,
  type PartQuery,
} from './repository.ts';
import { isTerminal, type JobStatus, requestCancel, requestPause, requestResume } from './states.ts';

type Deps = Pick<Dependencies, 'database'>;

/** A trainer obeys within 2 s; OpenAI answers a cancel with the cancelled job, so we wait that long for it. */
const CANCEL_WAIT_MS = 3_000;
/** A pause takes a step, a checkpoint and its upload more. */
const PAUSE_WAIT_MS = 10_000;
const POLL_MS = 100;

/** The job, or ApiError 404. */
export async function getJob({ database }: Deps, projectId: string, id: string): Promise<JobRow> {
  const job = await findJob(database.db, projectId, id);
  if (!job) throw noSuchJob(id);
  return job;
}

export async function pageOfJobs({ database }: Deps, projectId: string, query: JobQuery) {
  const page = await listJobs(database.db, projectId, query);
  if (page.items.length === 0 && query.after && !(await findJob(database.db, projectId, query.after))) {
    throw invalidValue('after', `no job '${query.after}' to continue from.`);
  }
  return page;
}

export const pageOfEvents = pageOfParts(listEvents);
export const pageOfCheckpoints = pageOfParts(listCheckpoints);

function pageOfParts<T>(
  list: (db: Deps['database']['db'], projectId: string, jobId: string, query: PartQuery) => Promise<T>,
) {
  return async ({ database }: Deps, projectId: string, jobId: string, query: PartQuery): Promise<T> => {
    await getJob({ database }, projectId, jobId);
    if (query.after && !(await isPartOfJob(database.db, projectId, jobId, query.after))) {
      throw invalidValue('after', `the job has no item '${query.after}' to continue from.`);
    }
    return list(database.db, projectId, jobId, query);
  };
}

/**
 * Cancels the job and returns it: cancelled at once when no trainer holds it, else as soon as its trainer has stopped
 * (at most 3 s are waited). A job that has ended is 400, and SDKs are told not to repeat it.
 */
export async function cancelJob(deps: Deps, projectId: string, id: string): Promise<JobRow> {
  const result = await requestCancel(deps.database, projectId, id);
  if (result.outcome === 'not_found') throw noSuchJob(id);
  if (result.outcome === 'terminal') throw final(jobAlreadyTerminal(id, result.status));
  return waitUntil(deps, projectId, id, CANCEL_WAIT_MS, isTerminal);
}

/**
 * Cancels what still waits, rests or runs in archived projects: in one, or in all (null). Nobody holds a key any more
 * that could. @returns how many
 */
export async function cancelJobsOfArchived(
  { database }: Deps,
  projectId: string | null,
  signal?: AbortSignal,
): Promise<number> {
  const left = await jobsOfArchived(database.db, projectId);
  for (const [done, job] of left.entries()) {
    if (signal?.aborted) return done;
    await requestCancel(database, job.projectId, job.id);
  }
  return left.length;
}

/**
 * Pauses the job and returns it: paused at once when no trainer holds it, else as soon as its trainer has saved a
 * checkpoint (at most 10 s are waited; the request stands beyond that). 400 for a job that rests, ends or has ended.
 */
export async function pauseJob(deps: Deps, projectId: string, id: string): Promise<JobRow> {
  const result = await requestPause(deps.database, projectId, id);
  if (result.outcome === 'not_found') throw noSuchJob(id);
  if (result.outcome === 'refused') {
    if (isTerminal(result.status)) throw final(jobAlreadyTerminal(id, result.status));
    const why = result.cancelling ? 'is being cancelled' : `is already '${result.status}'`;
    throw final(badRequest(`Job ${id} ${why} and cannot be paused.`, null, 'job_not_pausable'));
  }
  const rests = (status: JobStatus) => status === 'paused' || isTerminal(status);
  const job = await waitUntil(deps, projectId, id, PAUSE_WAIT_MS, rests);
  // It ended before it could obey.
  if (isTerminal(job.status as JobStatus)) throw final(jobAlreadyTerminal(id, job.status));
  return job;
}

/** Puts a paused job back into the queue and returns it. 400 for any other, 429 when the project's places are taken. */
export async function resumeJob(
  deps: Pick<Dependencies, 'database' | 'config'>,
  projectId: string,
  id: string,
): Promise<JobRow> {
  const admit = (tx: Queryable) => requireJobSlot(tx, deps.config, projectId);
  const result = await requestResume(deps.database, projectId, id, admit);
  if (result.outcome === 'not_found') throw noSuchJob(id);
  if (result.outcome === 'refused') {
    if (isTerminal(result.status)) throw final(jobAlreadyTerminal(id, result.status));
    const text = `Job ${id} has status '${result.status}'; only a paused job can be resumed.`;
    throw final(badRequest(text, null, 'job_not_paused'));
  }
  return getJob(deps, projectId, id);
}

/** An answer that stays the same however often it is asked: SDKs are told not to repeat. */
function final(error: ApiError): ApiError {
  return new ApiError({ ...error, message: error.message, headers: { 'x-should-retry': 'false' } });
}

async function waitUntil(
  deps: Deps,
  projectId: string,
  id: string,
  milliseconds: number,
  done: (status: JobStatus) => boolean,
): Promise<JobRow> {
  const until = performance.now() + milliseconds;
  let job = await getJob(deps, projectId, id);
  while (!done(job.status as JobStatus) && performance.now() < until) {
    await sleep(POLL_MS);
    job = await getJob(deps, projectId, id);
  }
  return job;
}
