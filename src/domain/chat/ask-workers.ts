/**
 * From a generation's request to a worker's events: which workers are asked, in which order, and what happens when one
 * is lost. As long as its caller has been sent nothing, a request whose worker stopped is asked once more; one that was
 * under way when two workers in a row stopped may be what stopped them, and is refused.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { ApiError, baseModelChanged, modelUnavailable, requestStopsWorkers } from '../../errors.ts';
import { openGeneration, WorkerLost, WorkerRefused } from '../../inference/client.ts';
import {
  type GenerateEvent,
  type GenerateRequest,
  WORKER_LOST,
  type WorkerError,
} from '../../inference/protocol.ts';
import type { Dependencies } from '../dependencies.ts';
import { Slots } from '../slots.ts';
import { type InferenceWorker, inferenceWorkers } from './repository.ts';

type Deps = Pick<Dependencies, 'database' | 'config' | 'log'>;

export interface Question {
  /** The name that was asked for; of it the errors speak. */
  model: string;
  wire: GenerateRequest;
  /** The caller sends nothing before the end: until then another worker can begin anew. */
  whole: boolean;
}

const RETRY_SECONDS = 2;
const STOPS_MAX = 2;
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
  const { database, config } = deps;
  const round: Round = { stops: 0, refused: null };
  const until = () => performance.now() + 1000 * config.workerWaitSeconds;
  let deadline = 0; // of a request that waits for a worker to come back
  for (let pause = LOOK_AGAIN_MS.first; ; pause = Math.min(2 * pause, LOOK_AGAIN_MS.most)) {
    const known = await inferenceWorkers(database.db, question.wire.base_model);
    const stopsBefore = round.stops;
    const answer = await askEach(deps, question, suited(deps, question, known), round, signal);
    if (answer) return answer;
    if (round.stops > stopsBefore) deadline = until();
    if (round.stops === 0 || round.refused?.status === 429 || performance.now() > deadline)
      throw refusalOf(question, known, round.refused);
    await sleep(pause, undefined, { signal });
  }
}

/** What became of a request so far. */
interface Round {
  /** Workers that stopped while they worked on it. */
  stops: number;
  /** The latest refusal. */
  refused: ApiError | null;
}

/** Asks the workers one after the other; null when none has answered. */
async function askEach(
  { config, log }: Deps,
  { wire, whole }: Question,
  workers: Suited[],
  round: Round,
  signal: AbortSignal,
): Promise<AsyncGenerator<GenerateEvent, void> | null> {
  for (const { url, baseDigest } of workers) {
    // One that tells no digest is of an earlier release, and refuses fields that it does not know.
    const asked = baseDigest === null ? { ...wire, base_digest: undefined } : wire;
    try {
      const begin = async () => untilFirstToken(await openGeneration(url, config.workerToken, asked, signal));
      const events = await (round.stops === 0 ? begin() : alone(wire.base_model, signal, begin));
      return whole ? await untilEnd(events) : events;
    } catch (error) {
      const isRefused = error instanceof WorkerRefused;
      if (!isRefused && !(error instanceof WorkerLost)) throw error;
      log.warn({ err: error, worker: url, completion: wire.request_id }, 'worker did not answer');
      if (isRefused ? error.error.code === WORKER_LOST : error.underWay) {
        if (++round.stops >= STOPS_MAX) throw requestStopsWorkers();
      } else if (isRefused) {
        if (error.error.status < 500 && error.error.status !== 429) throw toApiError(error.error);
        round.refused = toApiError(error.error);
      }
    }
  }
  return null;
}

/** For each base model the one place of requests that were under way when a worker stopped. */
const suspects = new Map<string, Slots>();

/**
 * Begins what was under way when a worker stopped, one such request of this process at a time: if it stops the next
 * worker too, it was none of the others.
 */
async function alone<T>(baseModel: string, signal: AbortSignal, begin: () => Promise<T>): Promise<T> {
  const place = suspects.get(baseModel) ?? new Slots(1);
  suspects.set(baseModel, place);
  const leave = await place.take(signal);
  try {
    return await begin();
  } finally {
    leave();
  }
}

type Suited = Pick<InferenceWorker, 'baseDigest'> & { url: string };

/** The ready workers whose base model is the one that was trained on, in random order. */
function suited({ log }: Deps, { wire }: Question, known: InferenceWorker[]): Suited[] {
  const ready = known.flatMap(({ url, isReady, baseDigest }) =>
    url !== null && isReady ? [{ url, baseDigest }] : [],
  );
  const fits = ready.filter(({ baseDigest }) => isSame(baseDigest, wire.base_digest));
  if (fits.length < ready.length) {
    const here = ready.map(({ baseDigest }) => baseDigest);
    const what = 'a model was trained on other files of its base model than some workers hold';
    log.warn({ model: wire.adapter?.model_id, trained_on: wire.base_digest, here }, what);
  }
  return shuffled(fits);
}

/** What is not known (from before digests were kept) is no reason to refuse. */
const isSame = (held: string | null, wanted: string | undefined): boolean =>
  held === null || wanted === undefined || held === wanted;

/** Why no worker has answered, as its caller is told. */
function refusalOf({ model, wire }: Question, known: InferenceWorker[], refused: ApiError | null): ApiError {
  // One without a code is a fault of the worker, which says nothing to users.
  if (refused && refused.code !== null && refused.code !== 'server_error') return refused;
  const base = `its base model '${wire.base_model}'`;
  const what = wire.adapter === null ? 'it' : base;
  if (known.length === 0) return modelUnavailable(model, `no inference worker holds ${what}.`, null);
  const ready = known.filter(({ isReady }) => isReady);
  if (ready.length > 0 && !ready.some(({ baseDigest }) => isSame(baseDigest, wire.base_digest)))
    return baseModelChanged(model, wire.base_model);
  const why = ready.length === 0 ? `no worker that holds ${what} is ready.` : 'its workers do not answer.';
  return modelUnavailable(model, why, RETRY_SECONDS);
}

/** What a worker's error event, or its loss after the first token, is to the caller; null for anything else. */
export function generationError(error: unknown): ApiError | null {
  if (error instanceof WorkerRefused) return toApiError(error.error);
  if (!(error instanceof WorkerLost)) return null;
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
  return new ApiError({ ...error, headers: retry === undefined ? {} : { 'retry-after': String(retry) } });
}

/** Reads on to the first event that carries output, and returns all events again. */
async function untilFirstToken(
  events: AsyncGenerator<GenerateEvent, void>,
): Promise<AsyncGenerator<GenerateEvent, void>> {
  const early: GenerateEvent[] = [];
  for (;;) {
    const next = await events.next();
    if (next.done) throw new WorkerLost('the worker ended without an answer', { underWay: true });
    if (next.value.type === 'error') throw new WorkerRefused(next.value.error);
    early.push(next.value);
    if (next.value.type !== 'start') return replay(early, events);
  }
}

/** Reads to the end, and returns all events again. */
async function untilEnd(
  events: AsyncGenerator<GenerateEvent, void>,
): Promise<AsyncGenerator<GenerateEvent, void>> {
  const all: GenerateEvent[] = [];
  for await (const event of events) {
    if (event.type === 'error') throw new WorkerRefused(event.error);
    all.push(event);
  }
  return replay(all, events);
}

async function* replay(
  early: GenerateEvent[],
  rest: AsyncGenerator<GenerateEvent, void>,
): AsyncGenerator<GenerateEvent, void> {
  try {
    yield* early;
    yield* rest;
  } finally {
    await rest.return();
  }
}

function shuffled<T>(items: T[]): T[] {
  return items
    .map((item) => [Math.random(), item] as const)
    .toSorted(([a], [b]) => a - b)
    .map(([, item]) => item);
}
