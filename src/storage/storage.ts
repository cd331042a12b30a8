/**
 * Object storage behind six verbs. Keys are made by the server ("projects/<id>/files/<id>"), objects are written
 * once and read whole or in part. Knows nothing of files, jobs or models; Postgres alone decides what exists for a user.
 */
import { createHash, type Hash } from 'node:crypto';
import type { Readable } from 'node:stream';

export interface StoredObject {
  bytes: number;
  sha256: string; // hex, of the bytes as they came in
}

/** Both ends inclusive, as in HTTP; `end` may lie past the last byte. */
export interface ByteRange {
  start: number;
  end?: number;
}

export interface Storage {
  /**
   * Stores `body` under `key`, replacing what was there at once: a reader sees the old bytes or the new ones. Durable
   * when it resolves. When `body` throws, the error is thrown on and nothing is left.
   */
  put(key: string, body: AsyncIterable<Uint8Array> | Uint8Array): Promise<StoredObject>;
  /** The bytes (or a part of them). Throws ObjectNotFound; RangeError when `range` starts past the end. */
  get(key: string, range?: ByteRange): Promise<Readable>;
  head(key: string): Promise<{ bytes: number } | null>;
  /** Removes the object; removing what is not there is no error. */
  delete(key: string): Promise<void>;
  /** Every object whose key starts with `prefix`, in no promised order. */
  list(prefix: string): AsyncIterable<ListedObject>;
  /** Removes what puts of processes that died have left, untouched for `olderThanMs`; returns how many. */
  removeAbandoned(olderThanMs: number): Promise<number>;
}

export interface ListedObject {
  key: string;
  bytes: number;
  /** When the bytes were stored, by the store's clock. */
  modified: Date;
}

/** Nothing is stored under the key. */
export class ObjectNotFound extends Error {
  override name = 'ObjectNotFound';
  readonly key: string;

  constructor(key: string) {
    super(`Nothing is stored under '${key}'.`);
    this.key = key;
  }
}

/**
 * The store itself is at fault, not the object: it cannot be reached, has no room, or is not there at all (a bucket that
 * does not exist, a disk that is not mounted). Nothing can be said of its objects then; the same call may work later.
 */
export class StorageUnavailable extends Error {
  override name = 'StorageUnavailable';
  /** It answers, but takes nothing more. */
  readonly full: boolean;

  constructor(message: string, options: { full?: boolean; cause: unknown }) {
    super(message, { cause: options.cause });
    this.full = options.full ?? false;
  }
}

/**
 * Refuses keys that object stores treat differently: empty ones, over 1024 bytes, with empty segments, '.' or '..',
 * control characters or lone surrogates. Server-made keys never meet this; it guards against a slip.
 */
export function checkKey(key: string): void {
  const segments = key.split('/');
  const bad =
    key.length === 0 ||
    Buffer.byteLength(key) > 1024 ||
    !key.isWellFormed() ||
    /[\u0000-\u001f\u007f]/.test(key) ||
    segments.some((s) => s === '' || s === '.' || s === '..');
  if (bad) throw new Error(`Not a storage key: ${JSON.stringify(key.slice(0, 200))}`);
}

/** Passes chunks through while counting and hashing them; read `result()` when it has ended. */
export class Digest {
  #hash: Hash = createHash('sha256');
  #bytes = 0;

  async *through(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of body) {
      this.#hash.update(chunk);
      this.#bytes += chunk.byteLength;
      yield chunk;
    }
  }

  result(): StoredObject {
    return { bytes: this.#bytes, sha256: this.#hash.digest('hex') };
  }
}

/** A body as chunks, whatever it came as. */
export async function* chunksOf(body: AsyncIterable<Uint8Array> | Uint8Array): AsyncGenerator<Uint8Array> {
  if (body instanceof Uint8Array) yield body;
  else yield* body;
}
