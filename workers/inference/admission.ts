/**
 * The bound on work that waits: a request takes its place before anything is spent on it and is told at once when
 * there is none. The last quarter of the places is kept for owners that have few, so that one alone cannot fill the queue.
 * Counts requests and prompt tokens; knows neither HTTP nor sequences.
 */

export interface AdmissionOptions {
  /** Choices generated together; requests that could start now do not count as waiting. */
  maxRunning: number;
  /** Requests that may wait at most. */
  maxWaiting: number;
  /** Prompt tokens that may wait at most. */
  maxWaitingTokens: number;
}

/** This part of the queue is kept for owners that have less than this part of it. */
const KEPT = 1 / 4;
const FEW = 1 / 16;

/** A request's place. `started` and `release` may each be called once or more; only the first call counts. */
export interface Place {
  /** Corrects the estimate once the prompt is tokenised. */
  resize(tokens: number): void;
  started(): void;
  release(): void;
}

export class Admission {
  readonly #options: AdmissionOptions;
  #waiting = 0;
  #waitingTokens = 0;
  #runningChoices = 0;
  #requests = 0;
  /** Waiting requests of each owner that has any. */
  readonly #waitingOf = new Map<string, number>();

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  get waiting(): number {
    return this.#waiting;
  }

  /** Requests admitted and not yet released. */
  get requests(): number {
    return this.#requests;
  }

  /**
   * A place for a request of `choices` choices and about `tokens` prompt tokens, or null when the queue is full, or full
   * but for what is kept for others.
   */
  reserve(owner: string, choices: number, tokens: number): Place | null {
    const startable = Math.max(0, this.#options.maxRunning - this.#runningChoices);
    const { maxWaiting, maxWaitingTokens } = this.#options;
    const own = this.#waitingOf.get(owner) ?? 0;
    const kept = own < Math.max(1, Math.floor(maxWaiting * FEW)) ? 0 : Math.floor(maxWaiting * KEPT);
    if (this.#waiting >= maxWaiting - kept + startable) return null;
    const alone = this.#waiting === 0; // a single prompt may be as long as the context allows
    const tokensMax = kept > 0 ? maxWaitingTokens * (1 - KEPT) : maxWaitingTokens;
    if (!alone && this.#waitingTokens + tokens > tokensMax) return null;
    this.#waitingOf.set(owner, own + 1);
    this.#waiting++;
    this.#waitingTokens += tokens;
    this.#requests++;
    let held = tokens;
    let state: 'waiting' | 'running' | 'gone' = 'waiting';
    const leaveQueue = (): void => {
      this.#waiting--;
      this.#waitingTokens -= held;
      const left = (this.#waitingOf.get(owner) ?? 1) - 1;
      if (left > 0) this.#waitingOf.set(owner, left);
      else this.#waitingOf.delete(owner);
    };
    return {
      resize: (actual) => {
        if (state !== 'waiting') return;
        this.#waitingTokens += actual - held;
        held = actual;
      },
      started: () => {
        if (state !== 'waiting') return;
        state = 'running';
        leaveQueue();
        this.#runningChoices += choices;
      },
      release: () => {
        if (state === 'gone') return;
        if (state === 'waiting') leaveQueue();
        else this.#runningChoices -= choices;
        state = 'gone';
        this.#requests--;
      },
    };
  }
}
