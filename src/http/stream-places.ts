/**
 * How many streams a key has open in this process. A stream has no end of its own and each takes a connection and a
 * timer, so one key must not have them all. Knows nothing of what is streamed.
 */
import { quotaReached } from '../errors.ts';

export class StreamPlaces {
  readonly #max: number;
  readonly #open = new Map<string, number>();

  /** @param max streams of one key at once; 0 = no limit */
  constructor(max: number) {
    this.#max = max;
  }

  /** Streams of the key that are open. */
  count(keyId: string): number {
    return this.#open.get(keyId) ?? 0;
  }

  /**
   * The items of `source`, whose place is taken until it ends, fails or is left. Throws ApiError 429 when the key has
   * all of its places taken; `source` is left then.
   */
  async take<T>(keyId: string, source: AsyncIterator<T, void>): Promise<AsyncIterator<T, void>> {
    if (this.#max > 0 && this.count(keyId) >= this.#max) {
      await source.return?.();
      const message = `This API key already has ${this.#max} streams of events open, which is its limit. Close one first.`;
      throw quotaReached(message, 'too_many_streams', 429);
    }
    this.#open.set(keyId, this.count(keyId) + 1);
    let over = false;
    const leave = () => {
      if (over) return;
      over = true;
      const left = this.count(keyId) - 1;
      if (left > 0) this.#open.set(keyId, left);
      else this.#open.delete(keyId);
    };
    return {
      next: () =>
        source.next().then(
          (next) => {
            if (next.done) leave();
            return next;
          },
          (error) => {
            leave();
            throw error;
          },
        ),
      return: async () => {
        leave();
        await source.return?.();
        return { done: true, value: undefined };
      },
    };
  }
}
