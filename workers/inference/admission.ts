/**
 * The bound on work that waits: a request takes its place before anything is spent on it and is told at once when
 * there is none. Counts requests and prompt tokens; knows neither HTTP nor sequences.
 */

export interface AdmissionOptions {
  /** Choices generated together; requests that could start now do not count as waiting. */
  maxRunning: number;
  /** Requests that may wait at most. */
  maxWaiting: number;
  /** Prompt tokens that may wait at most. */
  maxWaitingTokens: number;
}

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

  /** A place for a request of `choices` choices and about `tokens` prompt tokens, or null when the queue is full. */
  reserve(choices: number, tokens: number): Place | null {
    const startable = Math.max(0, this.#options.maxRunning - this.#runningChoices);
    if (this.#waiting >= this.#options.maxWaiting + startable) return null;
    const alone = this.#waiting === 0; // a single prompt may be as long as the context allows
    if (!alone && this.#waitingTokens + tokens > this.#options.maxWaitingTokens) return null;
    this.#waiting++;
    this.#waitingTokens += tokens;
    this.#requests++;
    let held = tokens;
    let state: 'waiting' | 'running' | 'gone' = 'waiting';
    const leaveQueue = (): void => {
      this.#waiting--;
      this.#waitingTokens -= held;
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
