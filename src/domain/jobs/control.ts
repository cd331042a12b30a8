/**
 * Looks at jobs and stops them. Unknown and foreign ids are answered alike.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { ApiError, invalidValue, jobAlreadyTerminal, noSuchJob } from '../../errors.ts';
import type { Dependencies } from '../dependencies.ts';
import {
  findJob,
  isPartOfJob,
  type JobQuery,
  type JobRow,
  listCheckpoints,
  listEvents,
  listJobs,
  type PartQuery,
} from './repository.ts';
import { isTerminal, type JobStatus, requestCancel } from './states.ts';

type Deps = Pick<Dependencies, 'database'>;

/** A trainer obeys within 2 s; OpenAI answers a cancel with the cancelled job, so we wait that long for it. */
const CANCEL_WAIT_MS = 3_000;
const CANCEL_POLL_MS = 100;

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
  if (result.outcome === 'terminal') {
    const error = jobAlreadyTerminal(id, result.status);
    throw new ApiError({ ...error, message: error.message, headers: { 'x-should-retry': 'false' } });
  }
  const until = performance.now() + CANCEL_WAIT_MS;
  let job = await getJob(deps, projectId, id);
  while (!isTerminal(job.status as JobStatus) && performance.now() < until) {
    await sleep(CANCEL_POLL_MS);
    job = await getJob(deps, projectId, id);
  }
  return job;
}
