/**
 * Which of the requests that were under way when a worker stopped may be what stopped it: where each request is, who was
 * beside it, and the one place in which suspects begin. Knows neither workers nor answers.
 */
import { Slots } from '../slots.ts';

const visits = new Map<string, Set<Visit>>();

/** One request of this process at one worker, from before it connects until its last event. */
export class Visit {
  readonly #url: string;
  #hadCompany = false;

  constructor(url: string) {
    this.#url = url;
    const here = visits.get(url) ?? new Set();
    visits.set(url, here.add(this));
  }

  /** The worker stopped: whoever is there now, or still waits to hear of it, may be the reason. */
  stopped(): void {
    const here = visits.get(this.#url);
    if (here === undefined || here.size < 2) return;
    for (const each of here) each.#hadCompany = true;
  }

  end(): void {
    const here = visits.get(this.#url);
    if (here?.delete(this) && here.size === 0) visits.delete(this.#url);
  }

  /** Whether the worker had something else of this process too when it stopped. */
  get hadCompany(): boolean {
    return this.#hadCompany;
  }
}

const places = new Map<string, Slots>();

/**
 * The place of a base model in which what was under way when a worker stopped begins anew, one request of this process at
 * a time; resolves with the function that gives it back, null when it was not free in time. Rejects with the signal's reason.
 */
export async function takePlace(
  baseModel: string,
  seconds: number,
  signal: AbortSignal,
): Promise<(() => void) | null> {
  const place = places.get(baseModel) ?? new Slots(1);
  places.set(baseModel, place);
  try {
    return await place.take(AbortSignal.any([signal, AbortSignal.timeout(seconds * 1000)]));
  } catch {
    signal.throwIfAborted();
    return null;
  }
}

/** A host that took so long to be found unreachable is not tried again by suspects, who would all wait for it. */
const SLOW_MS = 1_000;
const AVOIDED_MS = 10_000;
const avoided = new Map<string, number>();

/** Notes that `url` could not be reached after `ms`. */
export function noteUnreachable(url: string, ms: number): void {
  const now = performance.now();
  for (const [each, until] of avoided) if (until <= now) avoided.delete(each);
  if (ms >= SLOW_MS) avoided.set(url, now + AVOIDED_MS);
}

export const isAvoided = (url: string): boolean => (avoided.get(url) ?? 0) > performance.now();
