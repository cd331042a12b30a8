/** Stored bytes as an answer: an attachment with its exact name and length, cut off when storage fails on the way. */
import { Readable } from 'node:stream';
import type { AppContext } from './context.ts';
import { countReadBytes } from './read-buffers.ts';

/** The answer that streams `body` to the caller; a failing body breaks the connection, so a part is never taken for the whole. */
export function download(c: AppContext, filename: string, bytes: number, body: Readable): Response {
  const whole = async function* () {
    try {
      for await (const chunk of body) {
        countReadBytes(chunk.byteLength);
        yield chunk;
      }
    } catch (error) {
      c.var.log.error({ err: error }, 'download broke off');
      c.env?.outgoing?.destroy();
    }
  };
  return new Response(
    Readable.toWeb(Readable.from(whole(), { objectMode: false, highWaterMark: 1 << 18 })) as ReadableStream,
    {
      headers: {
        'content-type': 'application/octet-stream',
        'content-length': String(bytes),
        'content-disposition': contentDisposition(filename),
      },
    },
  );
}

/** `attachment` with an ASCII name for old clients (RFC 6266) and the exact one percent-encoded (RFC 8187) beside it. */
export function contentDisposition(filename: string): string {
  const ascii = filename.replace(/[^\x20-\x7e]/g, '_').replace(/["\\]/g, '\\$&');
  const plain = `attachment; filename="${ascii}"`;
  if (/^[\x20-\x7e]*$/.test(filename) && !/["\\%]/.test(filename)) return plain;
  const encoded = encodeURIComponent(filename).replace(
    /['()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return `${plain}; filename*=UTF-8''${encoded}`;
}
