/** Pulls exact numbers of bytes out of chunks of any size, holding one chunk at a time. */
import { badRequest } from '../../errors.ts';

export class ByteReader {
  readonly #source: AsyncIterator<Uint8Array>;
  #chunk: Uint8Array = new Uint8Array();
  #ended = false;

  constructor(body: AsyncIterable<Uint8Array>) {
    this.#source = body[Symbol.asyncIterator]();
  }

  /** Exactly `bytes` bytes, or null when the source has ended before the first or among them. */
  async read(bytes: number): Promise<Uint8Array | null> {
    const parts: Uint8Array[] = [];
    let missing = bytes;
    while (missing > 0) {
      const piece = await this.#next(missing);
      if (piece === null) return null;
      parts.push(piece);
      missing -= piece.byteLength;
    }
    return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
  }

  /** The next `bytes` bytes as they come. Throws ApiError when the source ends among them; may be continued. */
  take(bytes: number): AsyncIterable<Uint8Array> {
    let missing = bytes;
    const next = async () => {
      if (missing === 0) return { done: true as const, value: undefined };
      const piece = await this.#next(missing);
      if (piece === null) throw badRequest('The archive is cut short.', 'file', 'invalid_archive');
      missing -= piece.byteLength;
      return { done: false as const, value: piece };
    };
    return { [Symbol.asyncIterator]: () => ({ next }) };
  }

  /** Whatever comes next, or null at the end. */
  next(): Promise<Uint8Array | null> {
    return this.#next(Number.POSITIVE_INFINITY);
  }

  /** Drops bytes; fewer when the source ends. */
  async skip(bytes: number): Promise<void> {
    for (let missing = bytes; missing > 0; ) {
      const piece = await this.#next(missing);
      if (piece === null) return;
      missing -= piece.byteLength;
    }
  }

  /** Reads to the end, for a sender that listens only when it has sent everything. */
  async drain(): Promise<void> {
    await this.skip(Number.POSITIVE_INFINITY);
  }

  async #next(most: number): Promise<Uint8Array | null> {
    while (this.#chunk.byteLength === 0) {
      if (this.#ended) return null;
      const { done, value } = await this.#source.next();
      if (done) {
        this.#ended = true;
        return null;
      }
      this.#chunk = value;
    }
    const piece = this.#chunk.subarray(0, most);
    this.#chunk = this.#chunk.subarray(piece.byteLength);
    return piece;
  }
}
