/**
 * The tokenised examples of one job, built once and held in compact typed arrays: 5 bytes per token. An example is one
 * sequence, or two where answers are compared. Knows neither files nor templates.
 */
import { shift } from './encode.ts';

export class Dataset {
  /** Sequences of one example: 1, or 2 for preference pairs (the preferred one first). */
  readonly sequencesPerExample: 1 | 2;
  /** Positions that one epoch reads (every token but each example's last). */
  tokens = 0;
  /** Targets that one epoch learns. */
  labelledTokens = 0;
  private ids = new Int32Array(1024);
  private learn = new Uint8Array(1024);
  private ends = new Int32Array(64);
  private sequences = 0;

  constructor(sequencesPerExample: 1 | 2 = 1) {
    this.sequencesPerExample = sequencesPerExample;
  }

  /** Number of examples. */
  get length(): number {
    return Math.floor(this.sequences / this.sequencesPerExample);
  }

  /**
   * Appends one token sequence (at least two tokens, at least one of them learned).
   * @throws RangeError on an empty or unlearnable sequence.
   */
  add(tokens: ArrayLike<number>, learn: ArrayLike<boolean>): void {
    const start = this.start(this.sequences);
    const end = start + tokens.length;
    if (tokens.length < 2 || learn.length !== tokens.length)
      throw new RangeError('a sequence needs two tokens and as many flags');
    if (end > this.ids.length) this.ids = grown(this.ids, end, Int32Array);
    if (end > this.learn.length) this.learn = grown(this.learn, end, Uint8Array);
    if (this.sequences === this.ends.length) this.ends = grown(this.ends, this.sequences + 1, Int32Array);
    let labelled = 0;
    for (let i = 0; i < tokens.length; i++) {
      this.ids[start + i] = tokens[i]!;
      this.learn[start + i] = learn[i] ? 1 : 0;
      if (i > 0 && learn[i]) labelled++;
    }
    if (labelled === 0) throw new RangeError('a sequence without a target');
    this.ends[this.sequences++] = end;
    this.tokens += tokens.length - 1;
    this.labelledTokens += labelled;
  }

  /** The sequences of example i: ids and shifted targets, both Int32 [positions]. */
  get(i: number): { ids: Int32Array; targets: Int32Array }[] {
    if (!Number.isInteger(i) || i < 0 || i >= this.length)
      throw new RangeError(`example ${i} of ${this.length}`);
    return Array.from({ length: this.sequencesPerExample }, (_, k) => {
      const sequence = i * this.sequencesPerExample + k;
      const [start, end] = [this.start(sequence), this.ends[sequence]!];
      return shift(this.ids.subarray(start, end), this.learn.subarray(start, end));
    });
  }

  /** Positions of example i, all its sequences together. */
  positions(i: number): number {
    const first = i * this.sequencesPerExample;
    const last = first + this.sequencesPerExample - 1;
    return this.ends[last]! - this.start(first) - this.sequencesPerExample;
  }

  /** Positions of the longest example; 0 when there is none. */
  get longest(): number {
    let most = 0;
    for (let i = 0; i < this.length; i++) most = Math.max(most, this.positions(i));
    return most;
  }

  private start(sequence: number): number {
    return sequence === 0 ? 0 : this.ends[sequence - 1]!;
  }
}

function grown<T extends Int32Array | Uint8Array>(old: T, least: number, make: new (length: number) => T): T {
  const next = new make(Math.max(least, old.length * 2));
  next.set(old);
  return next;
}
