/**
 * Work that is done one piece at a time for several owners: they take turns, so that one who asks for much delays nobody
 * but itself, and each may have so much waiting at most. Knows nothing of the work.
 */

export interface FairTurnsOptions {
  /** Pieces that may wait or run, in all and of one owner. */
  most: number;
  mostOfOwner: number;
}

interface Piece {
  owner: string;
  run: () => Promise<void>;
}

export class FairTurns {
  readonly #options: FairTurnsOptions;
  /** In the order in which they came. */
  readonly #waiting: Piece[] = [];
  /** Owners with pieces here, the one whose turn was longest ago first. */
  readonly #owners: string[] = [];
  readonly #countOf = new Map<string, number>();
  #running = false;

  constructor(options: FairTurnsOptions) {
    this.#options = options;
  }

  /** Runs `work` when its owner's turn comes; null when there is no place for it. Settles as `work` does. */
  take<T>(owner: string, work: () => Promise<T>): Promise<T> | null {
    const own = this.#countOf.get(owner) ?? 0;
    const all = this.#waiting.length + (this.#running ? 1 : 0);
    if (all >= this.#options.most || own >= this.#options.mostOfOwner) return null;
    this.#countOf.set(owner, own + 1);
    if (own === 0) this.#owners.push(owner);
    return new Promise<T>((resolve, reject) => {
      const run = () => work().then(resolve, reject);
      this.#waiting.push({ owner, run });
      this.#next();
    });
  }

  #next(): void {
    if (this.#running) return;
    const owner = this.#owners.find((each) => this.#waiting.some((piece) => piece.owner === each));
    const piece = this.#waiting.find((each) => each.owner === owner);
    if (!piece) return;
    this.#running = true;
    this.#waiting.splice(this.#waiting.indexOf(piece), 1);
    void piece.run().finally(() => {
      this.#running = false;
      this.#leave(piece.owner);
      this.#next();
    });
  }

  /** A piece of this owner is done: the others are before it now. */
  #leave(owner: string): void {
    const left = (this.#countOf.get(owner) ?? 1) - 1;
    this.#owners.splice(this.#owners.indexOf(owner), 1);
    if (left > 0) {
      this.#owners.push(owner);
      this.#countOf.set(owner, left);
    } else this.#countOf.delete(owner);
  }
}
