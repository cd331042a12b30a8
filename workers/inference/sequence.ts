/**
 * One choice being generated: its tokens, how many of them have keys and values in the cache, and in which blocks.
 * Plain state; it decides nothing and knows neither the queue nor tensors.
 */

export interface SequenceOptions {
  /** Position in the service order; smaller goes first and is preempted last. */
  arrival: number;
  prompt: Int32Array;
  /** prompt + completion tokens at most. */
  maxLength: number;
  /** Separates prefix caches: two sequences share blocks only under the same salt. */
  cacheSalt: string;
  adapter: string | null;
  /** Who asked: owners share what runs. One and the same unless given. */
  owner?: string;
  /** Tokens run in one step at most, where the step's own budget is too much. */
  maxChunk?: number;
}

export class Sequence {
  readonly arrival: number;
  readonly promptLength: number;
  readonly maxLength: number;
  readonly cacheSalt: string;
  readonly adapter: string | null;
  readonly owner: string;
  readonly maxChunk: number;
  /** Tokens known: the prompt and what was sampled. */
  length: number;
  /** Tokens whose keys and values lie in `blocks`; the rest is still to be run. */
  computed = 0;
  blocks: number[] = [];
  /** Content keys of the leading full blocks, kept by KvBlocks. */
  blockKeys: string[] = [];
  /** Tokens taken from the prefix cache when it was last admitted. */
  reused = 0;
  #tokens: Int32Array;

  constructor(options: SequenceOptions) {
    this.arrival = options.arrival;
    this.promptLength = options.prompt.length;
    this.maxLength = options.maxLength;
    this.cacheSalt = options.cacheSalt;
    this.adapter = options.adapter;
    this.owner = options.owner ?? '';
    this.maxChunk = options.maxChunk ?? Number.POSITIVE_INFINITY;
    this.length = options.prompt.length;
    this.#tokens = new Int32Array(
      Math.max(options.prompt.length, Math.min(options.maxLength, options.prompt.length + 64)),
    );
    this.#tokens.set(options.prompt);
  }

  get remaining(): number {
    return this.length - this.computed;
  }

  get completionLength(): number {
    return this.length - this.promptLength;
  }

  /** A view of the tokens [start, end); valid until the next append. */
  slice(start: number, end: number): Int32Array {
    return this.#tokens.subarray(start, end);
  }

  append(token: number): void {
    if (this.length >= this.maxLength) throw new Error('sequence: append beyond maxLength');
    if (this.length === this.#tokens.length) {
      const grown = new Int32Array(Math.min(this.maxLength, this.#tokens.length * 2));
      grown.set(this.#tokens);
      this.#tokens = grown;
    }
    this.#tokens[this.length++] = token;
  }
}
