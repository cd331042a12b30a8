/**
 * Stored bytes as base64 text, whole or any range of it, encoded while they stream. For callers who decode OpenAI's
 * result files; knows nothing of files but their length.
 */
import type { ByteRange } from '../../storage/storage.ts';

type Open = (range?: ByteRange) => Promise<AsyncIterable<Uint8Array>>;

/** Characters of `bytes` bytes in base64, padding included. */
export const base64Length = (bytes: number): number => 4 * Math.ceil(bytes / 3);

/** Reads what `open` gives of `bytes` bytes as their base64; ranges count its characters, both ends inclusive. */
export function asBase64(bytes: number, open: Open): Open {
  return async ({ start, end = base64Length(bytes) - 1 } = { start: 0 }) => {
    if (bytes === 0) return open();
    const first = Math.floor(start / 4) * 3;
    const last = Math.min(Math.floor(end / 4) * 3 + 2, bytes - 1);
    return encoded(await open({ start: first, end: last }), start % 4, end - start + 1);
  };
}

/** The base64 of `source` without its first `skip` characters, `length` of them. */
async function* encoded(
  source: AsyncIterable<Uint8Array>,
  skip: number,
  length: number,
): AsyncGenerator<Uint8Array> {
  let pending: Uint8Array = new Uint8Array();
  let at = -skip;
  const piece = (bytes: Uint8Array): Uint8Array => {
    const text = Buffer.from(
      Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64'),
    );
    const from = Math.max(0, -at);
    const to = Math.min(text.length, length - at);
    at += text.length;
    return text.subarray(from, to);
  };
  for await (const chunk of source) {
    const all = Buffer.concat([pending, chunk]);
    const whole = all.length - (all.length % 3);
    if (whole > 0) yield piece(all.subarray(0, whole));
    pending = all.subarray(whole);
  }
  if (pending.length > 0) yield piece(pending);
}
