/**
 * Which adapters are in memory: loaded on demand, counted while in use, evicted least recently used first.
 * An adapter in use is never freed, a failed one is remembered for a while so that it cannot cost every request a
 * load. Knows how to load and dispose through its caller; must not know requests, storage or tensors.
 */

export interface ResidentAdaptersOptions<A> {
  /** Adapters in memory at most. */
  capacity: number;
  /** Reads an adapter from a local folder, at once or in pieces between which the others' steps run. */
  load: (directory: string) => A | Generator<void, A>;
  /** How long a failure is remembered. */
  retryAfterMilliseconds: number;
  now?: () => number;
}

/** The adapter cannot be loaded; only requests for it fail. */
export class AdapterLoadError extends Error {
  override name = 'AdapterLoadError';
  readonly retryAfterSeconds: number;

  constructor(message: string, retryAfterSeconds: number) {
    super(message);
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

interface Resident<A> {
  adapter: A;
  pins: number;
}

export class ResidentAdapters<A extends { dispose(): void }> {
  readonly #options: ResidentAdaptersOptions<A>;
  readonly #now: () => number;
  /** Least recently used first. */
  readonly #residents = new Map<string, Resident<A>>();
  readonly #failures = new Map<string, { message: string; until: number }>();
  #loading: { digest: string; pieces: Generator<void, A> } | null = null;

  constructor(options: ResidentAdaptersOptions<A>) {
    if (options.capacity < 1) throw new Error('adapters: capacity must be >= 1');
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** Digests in memory, most recently used last. */
  get digests(): string[] {
    return [...this.#residents.keys()];
  }

  /** Whether an adapter is being read, piece by piece. */
  get loading(): boolean {
    return this.#loading !== null;
  }

  /** Reads on for about so long, one piece at least. */
  work(milliseconds: number): void {
    const { digest, pieces } = this.#loading ?? {};
    if (!digest || !pieces) return;
    const until = performance.now() + milliseconds;
    try {
      do {
        const piece = pieces.next();
        if (!piece.done) continue;
        this.#loading = null;
        this.#residents.set(digest, { adapter: piece.value, pins: 0 });
        return;
      } while (performance.now() < until);
    } catch (cause) {
      this.#loading = null;
      this.#remember(digest, cause);
    }
  }

  /**
   * Makes the adapter resident and counts one user. False when every place is taken by adapters in use, or while it is
   * read in pieces: ask again.
   * @throws AdapterLoadError when it cannot be loaded, or could not a moment ago.
   */
  pin(digest: string, directory: string): boolean {
    const known = this.#residents.get(digest);
    if (known) {
      known.pins++;
      this.#residents.delete(digest); // now the most recently used
      this.#residents.set(digest, known);
      return true;
    }
    this.#refuseRecentFailure(digest);
    if (this.#loading) return false;
    if (this.#residents.size >= this.#options.capacity && !this.#evictOne()) return false;
    const loaded = this.#load(digest, directory);
    if (isPieces(loaded)) {
      this.#loading = { digest, pieces: loaded };
      return false;
    }
    this.#residents.set(digest, { adapter: loaded, pins: 1 });
    return true;
  }

  /** The adapter of a pinned digest. */
  get(digest: string): A {
    const resident = this.#residents.get(digest);
    if (!resident || resident.pins === 0) throw new Error(`adapters: ${digest} is used without a pin`);
    return resident.adapter;
  }

  unpin(digest: string): void {
    const resident = this.#residents.get(digest);
    if (!resident || resident.pins === 0) throw new Error(`adapters: ${digest} released without a pin`);
    resident.pins--;
  }

  dispose(): void {
    this.#loading?.pieces.return(undefined as never);
    this.#loading = null;
    for (const { adapter } of this.#residents.values()) adapter.dispose();
    this.#residents.clear();
  }

  #load(digest: string, directory: string): A | Generator<void, A> {
    try {
      return this.#options.load(directory);
    } catch (cause) {
      throw this.#remember(digest, cause);
    }
  }

  #remember(digest: string, cause: unknown): AdapterLoadError {
    const message = cause instanceof Error ? cause.message : String(cause);
    const wait = this.#options.retryAfterMilliseconds;
    if (this.#failures.size >= 1024) this.#failures.clear(); // bounded; forgetting only costs another load
    this.#failures.set(digest, { message, until: this.#now() + wait });
    return new AdapterLoadError(message, Math.ceil(wait / 1000));
  }

  #refuseRecentFailure(digest: string): void {
    const failure = this.#failures.get(digest);
    if (!failure) return;
    const left = failure.until - this.#now();
    if (left > 0) throw new AdapterLoadError(failure.message, Math.ceil(left / 1000));
    this.#failures.delete(digest);
  }

  #evictOne(): boolean {
    for (const [digest, resident] of this.#residents) {
      if (resident.pins > 0) continue;
      this.#residents.delete(digest);
      resident.adapter.dispose();
      return true;
    }
    return false;
  }
}

function isPieces<A>(loaded: A | Generator<void, A>): loaded is Generator<void, A> {
  return typeof (loaded as Partial<Generator>).next === 'function';
}
