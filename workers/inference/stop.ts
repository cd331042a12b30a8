/**
 * From tokens to the text a reader may see: holds text back while it could still become a stop string, and carries
 * each token's record along with its text. Knows decoding and stop strings; must not know sequences or the queue.
 */

/** Turns tokens into complete UTF-8 text (engine/tokenizer: StreamDecoder). */
export interface TokenDecoder {
  push(token: number): string;
  flush(): string;
}

export interface VisibleText<R> {
  text: string;
  records: R[];
  /** True when a stop string was reached; `text` ends right before it. */
  stopped: boolean;
}

export class StopText<R> {
  readonly #decoder: TokenDecoder;
  readonly #stops: readonly string[];
  /** Decoded text not yet shown: it ends with the beginning of a stop string. */
  #held = '';
  /** Records of tokens not yet shown, with the length of `#held` before their own text. */
  #pending: { record: R; begin: number }[] = [];

  /** `stops` must be well-formed, non-empty strings. */
  constructor(decoder: TokenDecoder, stops: readonly string[]) {
    this.#decoder = decoder;
    this.#stops = stops;
  }

  /** Takes the next token and returns what has become visible. */
  push(token: number, record: R): VisibleText<R> {
    this.#pending.push({ record, begin: this.#held.length });
    this.#held += this.#decoder.push(token);
    const stop = this.#firstStop();
    if (stop >= 0) return this.#cut(stop);
    return { ...this.#show(this.#held.length - this.#possibleStopLength()), stopped: false };
  }

  /** The rest at the end of a choice: an unfinished stop string is ordinary text, unfinished bytes become U+FFFD. */
  finish(): VisibleText<R> {
    this.#held += this.#decoder.flush();
    const stop = this.#firstStop();
    if (stop >= 0) return this.#cut(stop);
    const text = this.#held;
    const records = this.#pending.map((entry) => entry.record);
    this.#held = '';
    this.#pending = [];
    return { text, records, stopped: false };
  }

  #firstStop(): number {
    let first = -1;
    for (const stop of this.#stops) {
      const at = this.#held.indexOf(stop);
      if (at >= 0 && (first < 0 || at < first)) first = at;
    }
    return first;
  }

  /** Length of the longest end of the held text that begins a stop string. */
  #possibleStopLength(): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, this.#held.length); length > longest; length--) {
        if (this.#held.endsWith(stop.slice(0, length))) longest = length;
      }
    }
    return longest;
  }

  /** The text before a stop string, with the tokens that began before it; everything else is dropped. */
  #cut(at: number): VisibleText<R> {
    const text = this.#held.slice(0, at);
    const records = this.#pending.filter((entry) => entry.begin < at).map((entry) => entry.record);
    this.#held = '';
    this.#pending = [];
    return { text, records, stopped: true };
  }

  #show(length: number): { text: string; records: R[] } {
    const text = this.#held.slice(0, length);
    this.#held = this.#held.slice(length);
    const records: R[] = [];
    const pending: { record: R; begin: number }[] = [];
    for (const entry of this.#pending) {
      // A token belongs to the delta that shows its first character; one without text goes with what precedes it.
      if (entry.begin < length || this.#held.length === 0) records.push(entry.record);
      else pending.push({ record: entry.record, begin: entry.begin - length });
    }
    this.#pending = pending;
    return { text, records };
  }
}
