/**
 * Keeps batches out of the way of people who wait: a request of a batch may start only while some worker of its model
 * has nobody waiting, and only so many run at once. After a refusal all of a batch pauses, longer each time.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { readHealth } from '../../inference/health.ts';
import { liveWorkerUrls } from '../chat/repository.ts';
import type { Dependencies } from '../dependencies.ts';

/** A look at a worker's load serves all requests for this long. */
const FRESH_MS = 250;
const LOOK_AGAIN_MS = [100, 250, 500, 1_000];
const PAUSE_MS = { first: 500, most: 30_000 };

type Deps = Pick<Dependencies, 'database' | 'config'>;

/** Tells when the workers of a base model have room to spare. */
export class Load {
  readonly #deps: Deps;
  readonly #looks = new Map<string, { at: number; idle: Promise<boolean> }>();

  constructor(deps: Deps) {
    this.#deps = deps;
  }

  /** Resolves once a worker of the model has nobody waiting. Rejects with the signal's reason. */
  async untilIdle(baseModel: string, signal: AbortSignal): Promise<void> {
    for (let i = 0; !(await this.#look(baseModel, signal)); i++)
      await sleep(LOOK_AGAIN_MS[Math.min(i, LOOK_AGAIN_MS.length - 1)], undefined, { signal });
  }

  #look(baseModel: string, signal: AbortSignal): Promise<boolean> {
    const known = this.#looks.get(baseModel);
    if (known && performance.now() - known.at < FRESH_MS) return known.idle;
    const idle = this.#ask(baseModel, signal);
    idle.catch(() => this.#looks.delete(baseModel));
    this.#looks.set(baseModel, { at: performance.now(), idle });
    return idle;
  }

  async #ask(baseModel: string, signal: AbortSignal): Promise<boolean> {
    const urls = await liveWorkerUrls(this.#deps.database.db, baseModel);
    const healths = await Promise.all(
      urls.map((url) => readHealth(url, this.#deps.config.workerToken, signal)),
    );
    return healths.some((health) => health?.state === 'ready' && health.waiting === 0);
  }
}

/** The pause of one batch after refusals: doubled by each, forgotten after an answer. */
export class Pause {
  #until = 0;
  #next = PAUSE_MS.first;

  refused(retryAfterSeconds: number | null): void {
    const wait = Math.max(this.#next, (retryAfterSeconds ?? 0) * 1000);
    // Not all at the same moment: half of the wait is left to chance.
    this.#until = Math.max(this.#until, performance.now() + wait * (0.75 + Math.random() / 2));
    this.#next = Math.min(PAUSE_MS.most, this.#next * 2);
  }

  answered(): void {
    this.#next = PAUSE_MS.first;
  }

  async over(signal: AbortSignal): Promise<void> {
    for (let left = this.#until - performance.now(); left > 0; left = this.#until - performance.now())
      await sleep(left, undefined, { signal });
  }
}
