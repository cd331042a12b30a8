/**
 * Stored bytes as an answer: an attachment with its exact name and length, whole or a range of it (RFC 9110, 14), cut
 * off when storage fails on the way.
 */
import { Readable } from 'node:stream';
import { rangeNotSatisfiable } from '../errors.ts';
import { type AppContext, logOf } from './context.ts';
import { countReadBytes } from './read-buffers.ts';

export interface Downloadable {
  filename: string;
  bytes: number;
  /** Changes whenever the bytes do; a digest. */
  version: string;
}

/** Both ends inclusive. */
interface Range {
  start: number;
  end: number;
}

/**
 * The answer that streams what `open` gives: all bytes, or the one range that the caller asked for. A body that fails
 * breaks the connection, so a part is never taken for the whole. For HEAD nothing is opened. Throws ApiError 416.
 */
export async function download(
  c: AppContext,
  file: Downloadable,
  open: (range?: Range) => Promise<AsyncIterable<Uint8Array>> | AsyncIterable<Uint8Array>,
): Promise<Response> {
  const etag = `"${file.version}"`;
  const range = wantedRange(c.req.header('range'), c.req.header('if-range'), file.bytes, etag);
  const bytes = range ? range.end - range.start + 1 : file.bytes;
  const init = {
    status: range ? 206 : 200,
    headers: {
      'content-type': 'application/octet-stream',
      'content-length': String(bytes),
      'content-disposition': contentDisposition(file.filename),
      'accept-ranges': 'bytes',
      etag,
      ...(range && { 'content-range': `bytes ${range.start}-${range.end}/${file.bytes}` }),
    },
  };
  if (c.req.method === 'HEAD') return new Response(null, init);
  const body = await open(range ?? undefined);
  const whole = async function* () {
    try {
      for await (const chunk of body) {
        countReadBytes(chunk.byteLength);
        yield chunk;
      }
    } catch (error) {
      logOf(c).error({ err: error }, 'download broke off');
      c.env?.outgoing?.destroy();
    }
  };
  const stream = Readable.from(whole(), { objectMode: false, highWaterMark: 1 << 18 });
  return new Response(Readable.toWeb(stream) as ReadableStream, init);
}

/**
 * The range to answer with; null for the whole: none was asked for, it is not one we read (several ranges, another
 * unit), or `If-Range` names other bytes than these.
 */
function wantedRange(
  header: string | undefined,
  ifRange: string | undefined,
  bytes: number,
  etag: string,
): Range | null {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header?.trim() ?? '');
  if (!match || (match[1] === '' && match[2] === '')) return null;
  if (ifRange !== undefined && ifRange !== etag) return null;
  if (match[1] === '') {
    const last = Math.min(Number(match[2]), bytes);
    if (last === 0) throw rangeNotSatisfiable(bytes);
    return { start: bytes - last, end: bytes - 1 };
  }
  const start = Number(match[1]);
  const end = match[2] === '' ? bytes - 1 : Math.min(Number(match[2]), bytes - 1);
  if (match[2] !== '' && Number(match[2]) < start) return null; // not a range at all: ignored (RFC 9110, 14.1.1)
  if (start >= bytes) throw rangeNotSatisfiable(bytes);
  return { start, end };
}

/** `attachment` with an ASCII name for old clients (RFC 6266) and the exact one percent-encoded (RFC 8187) beside it. */
function contentDisposition(filename: string): string {
  const ascii = filename.replace(/[^\x20-\x7e]/g, '_').replace(/["\\]/g, '\\$&');
  const plain = `attachment; filename="${ascii}"`;
  if (/^[\x20-\x7e]*$/.test(filename) && !/["\\%]/.test(filename)) return plain;
  const encoded = encodeURIComponent(filename).replace(
    /['()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return `${plain}; filename*=UTF-8''${encoded}`;
}
