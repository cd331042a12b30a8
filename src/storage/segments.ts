/**
 * Several stored objects and pieces of memory read as one run of bytes, whole or in part, without holding more than a
 * chunk: uploads are put together from their parts this way, archives from their headers and files.
 */
import type { ByteRange, Storage } from './storage.ts';

export type Segment = Uint8Array | { key: string; bytes: number };

const lengthOf = (segment: Segment): number =>
  segment instanceof Uint8Array ? segment.byteLength : segment.bytes;

/** Bytes of all segments together. */
export function segmentsLength(segments: readonly Segment[]): number {
  return segments.reduce((sum, segment) => sum + lengthOf(segment), 0);
}

/**
 * The bytes of `segments` in order, or those of `range` (both ends inclusive). One object is open at a time. Throws
 * ObjectNotFound when one is gone, an Error when one no longer has its length.
 */
export async function* readSegments(
  storage: Pick<Storage, 'get'>,
  segments: readonly Segment[],
  range?: ByteRange,
): AsyncGenerator<Uint8Array> {
  const first = range?.start ?? 0;
  const last = Math.min(range?.end ?? Number.POSITIVE_INFINITY, segmentsLength(segments) - 1);
  let at = 0;
  for (const segment of segments) {
    const length = lengthOf(segment);
    const from = Math.max(first - at, 0);
    const to = Math.min(last - at, length - 1);
    at += length;
    if (from > to) continue;
    if (segment instanceof Uint8Array) yield segment.subarray(from, to + 1);
    else yield* readObject(storage, segment, from, to);
  }
}

async function* readObject(
  storage: Pick<Storage, 'get'>,
  object: { key: string; bytes: number },
  from: number,
  to: number,
): AsyncGenerator<Uint8Array> {
  const whole = from === 0 && to === object.bytes - 1;
  const body = await storage.get(object.key, whole ? undefined : { start: from, end: to });
  let received = 0;
  for await (const chunk of body as AsyncIterable<Uint8Array>) {
    received += chunk.byteLength;
    yield chunk;
  }
  const expected = to - from + 1;
  if (received !== expected) {
    throw new Error(`'${object.key}' gave ${received} bytes where ${expected} were expected.`);
  }
}
