/**
 * From a generation's request to a worker's events: which workers are asked, in which order, and what happens when one
 * is lost. As long as its caller has been sent nothing, a request whose worker stopped is asked again; one that was under
 * way when two workers stopped, and alone when the latter did, is what stopped it and is refused.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  ApiError,
  BASE_MODEL_CHANGED,
  baseModelChanged,
  modelUnavailable,
  requestStopsWorkers,
} from '../../errors.ts';
import { openGeneration, WorkerLost, WorkerRefused } from '../../inference/client.ts';
import {
  type GenerateEvent,
  type GenerateRequest,
  WORKER_LOST,
  type WorkerError,
} from '../../inference/protocol.ts';
import type { Dependencies } from '../dependencies.ts';
import { untilEnd, untilFirstToken } from './read-ahead.ts';
import type { InferenceWorker } from './repository.ts';
import { isSame, knownWorkers, type Suited, suited, wereSeenLately } from './suited-workers.ts';
import { isAvoided, noteUnreachable, takePlace, Visit } from './suspects.ts';

type Deps = Pick<Dependencies, 'database' | 'config' | 'log'>;

export interface Question {
  /** The name that was asked for; of it the errors speak. */
  model: string;
  wire: GenerateRequest;
  /** The caller sends nothing before the end: until then another worker can begin anew. */
  whole: boolean;
}

const RETRY_SECONDS = 2;
/** So many stops, the last of them with nothing else under way, and a request is what stops workers. */
const STOPS_MAX = 2;
/** Always in company, it may be innocent: it is not tried for ever, but may be sent again. */
const TRIES_MAX = 6;
/** A suspect waits so long for the others. */
const PLACE_SECONDS = 300;
/** How often a request whose worker stopped looks for one that takes over. */
const LOOK_AGAIN_MS = { first: 250, most: 1_000 };

/**
 * The events of the answer, once its first token is there (with `whole`: all of them). Throws ApiError when no worker
 * gives one; the signal's reason when it was aborted.
 */
export async function askWorkers(
  deps: Deps,
  question: Question,
  signal: AbortSignal,
): Promise<AsyncGenerator<GenerateEvent, void>> {
  const round: Round = { stops: 0, stopped: new Set(), isDrained: false, refused: null };
  const until = () => performance.now() + 1000 * deps.config.workerWaitSeconds;
  let deadline = 0; // of a request that waits for a worker to come back
  for (let pause = LOOK_AGAIN_MS.first; ; pause = Math.min(2 * pause, LOOK_AGAIN_MS.most)) {
    const before = { ...round };
    const queuedAt = performance.now();
    const leave = round.stops === 0 ? () => {} : await placeOf(question, signal);
    deadline += performance.now() - queuedAt; // its turn is not what it waits for
    let known: InferenceWorker[];
    try {
      known = await knownWorkers(deps, question.wire.base_model);
      const answer = await askEach(deps, question, suited(deps, question.wire, known), {
        round,
        leave,
        signal,
      });
      if (answer) return answer;
    } finally {
      leave();
    }
    const isNew = round.stops > before.stops;
    if (isNew || (round.isDrained && !before.isDrained)) deadline = until();
    if (isNew && known.some(({ url, isReady }) => isReady && url !== null && !round.stopped.has(url)))
      continue;
    const waits = round.stops > 0 || round.isDrained;
    if (!waits || round.refused?.status === 429 || performance.now() > deadline)
      throw refusalOf(question, known, round.refused);
    await sleep(pause, undefined, { signal }).catch((error: unknown) => {
      signal.throwIfAborted();
      throw error;
    });
  }
}

/** What became of a request so far. */
interface Round {
  /** Workers that stopped while they worked on it. */
  stops: number;
  /** Their addresses, which are asked last from then on. */
  stopped: Set<string>;
  /** A worker that shut down in an orderly way did not finish it: nobody's fault. */
  isDrained: boolean;
  /** The latest refusal. */
  refused: ApiError | null;
}

async function placeOf({ model, wire }: Question, signal: AbortSignal): Promise<() => void> {
  const leave = await takePlace(wire.base_model, PLACE_SECONDS, signal);
  if (leave === null) throw modelUnavailable(model, 'its workers keep stopping.', RETRY_SECONDS);
  return leave;
}

/** One try; `leave` gives the suspects' place back, if the request has it. */
interface Try {
  round: Round;
  leave: () => void;
  signal: AbortSignal;
}

/**
 * Asks the workers one after the other; null when none has answered, or one stopped. A request that was lost once leaves
 * the suspects' place with its first token; one that was lost again may stop workers later than that, and stays.
 */
async function askEach(
  { config, log }: Deps,
  question: Question,
  workers: Suited[],
  { round, leave, signal }: Try,
): Promise<AsyncGenerator<GenerateEvent, void> | null> {
  const { wire, whole } = question;
  const hasStopped = ({ url }: Suited) => Number(round.stopped.has(url));
  for (const { url, baseDigest } of workers.toSorted((a, b) => hasStopped(a) - hasStopped(b))) {
    if (round.stops > 0 && isAvoided(url)) continue;
    // One that tells no digest is of an earlier release, and refuses fields that it does not know.
    const asked = baseDigest === null ? { ...wire, base_digest: undefined } : wire;
    const visit = new Visit(url);
    const startedAt = performance.now();
    try {
      const opened = await openGeneration(url, config.workerToken, asked, signal);
      const events = await untilFirstToken(visited(opened, visit));
      if (round.stops < STOPS_MAX) leave();
      return whole ? await untilEnd(events) : events;
    } catch (error) {
      if (isStop(error)) visit.stopped();
      visit.end();
      const isRefused = error instanceof WorkerRefused;
      if (!isRefused && !(error instanceof WorkerLost)) throw error;
      log.warn({ err: error, worker: url, completion: wire.request_id }, 'worker did not answer');
      if (isStop(error)) {
        round.stops += 1;
        round.stopped.add(url);
        if (round.stops >= STOPS_MAX && !visit.hadCompany) throw requestStopsWorkers();
        if (round.stops >= TRIES_MAX) throw workerLost();
        return null;
      }
      if (isRefused) noteRefusal(error.error, round);
      else if (error.isSlow)
        throw modelUnavailable(question.model, 'its workers are too slow.', RETRY_SECONDS);
      else noteUnreachable(url, performance.now() - startedAt);
    }
  }
  return null;
}

/** The worker, or its engine, ended while it had the request. */
const isStop = (error: unknown): boolean =>
  error instanceof WorkerRefused
    ? error.error.code === WORKER_LOST
    : error instanceof WorkerLost && error.underWay && !error.isSlow;

/** Keeps why a worker refused. Throws what every other worker would say too. */
function noteRefusal(error: WorkerError, round: Round): void {
  const isBusy = error.status === 429 || error.status >= 500;
  if (!isBusy || error.code === 'model_not_finite') throw toApiError(error);
  if (error.code === 'server_is_overloaded') round.isDrained = true;
  round.refused = toApiError(error);
}

/** The same events; the visit ends with them. */
async function* visited(
  events: AsyncGenerator<GenerateEvent, void>,
  visit: Visit,
): AsyncGenerator<GenerateEvent, void> {
  try {
    for await (const event of events) {
      if (event.type === 'error' && event.error.code === WORKER_LOST) visit.stopped();
      yield event;
    }
  } catch (error) {
    if (isStop(error)) visit.stopped();
    throw error;
  } finally {
    visit.end();
  }
}

/** Why no worker has answered, as its caller is told. */
function refusalOf({ model, wire }: Question, known: InferenceWorker[], refused: ApiError | null): ApiError {
  // One without a code is a fault of the worker, which says nothing to users.
  if (refused && refused.code !== null && refused.code !== 'server_error') return refused;
  const base = `its base model '${wire.base_model}'`;
  const what = wire.adapter === null ? 'it' : base;
  if (known.length === 0) {
    const retry = wereSeenLately(wire.base_model) ? RETRY_SECONDS : null;
    return modelUnavailable(model, `no inference worker holds ${what}.`, retry);
  }
  const ready = known.filter(({ isReady }) => isReady);
  if (ready.length > 0 && !ready.some(({ baseDigest }) => isSame(baseDigest, wire.base_digest)))
    return baseModelChanged(model, wire.base_model);
  const why = ready.length === 0 ? `no worker that holds ${what} is ready.` : 'its workers do not answer.';
  return modelUnavailable(model, why, RETRY_SECONDS);
}

/** What a worker's error event, or its loss after the first token, is to the caller; null for anything else. */
export function generationError(error: unknown): ApiError | null {
  if (error instanceof WorkerRefused) return toApiError(error.error);
  return error instanceof WorkerLost ? workerLost() : null;
}

function workerLost(): ApiError {
  return new ApiError({
    status: 503,
    message: 'The worker that generated this answer was lost. Please try again.',
    type: 'server_error',
    code: WORKER_LOST,
    headers: { 'retry-after': String(RETRY_SECONDS) },
  });
}

export function toApiError(error: WorkerError): ApiError {
  const retry = error.retry_after_seconds;
  const headers: Record<string, string> = retry === undefined ? {} : { 'retry-after': String(retry) };
  if (error.code === BASE_MODEL_CHANGED) headers['x-should-retry'] = 'false';
  return new ApiError({ ...error, headers });
}
