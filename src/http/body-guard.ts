/**
 * Reads JSON bodies before anything else may: bytes are counted as they arrive, the text is looked over for bombs and
 * for what JSON.parse or Postgres would let through or choke on, and is parsed once. Uploads stream past it.
 */
import type { MiddlewareHandler } from 'hono';
import { JsonFault, scanJson } from '../domain/files/json-scan.ts';
import { badRequest, invalidJson, payloadTooLarge, unsupportedMediaType } from '../errors.ts';
import { type AppContext, type AppEnv, routeOf } from './context.ts';

const LIMITS = { depth: 32, nodes: 250_000 };
const JSON_TYPE = /^application\/([\w.-]+\+)?json$/i;

/** `streamed` are route patterns that read their own body. */
export function bodyGuard(maxBytes: number, streamed: ReadonlySet<string>): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    if (/%00/i.test(c.req.url))
      throw badRequest('The NUL character is not accepted in the URL.', null, 'invalid_url');
    const encoding = c.req.header('content-encoding');
    if (encoding && encoding.toLowerCase() !== 'identity') {
      const message = `Request bodies with Content-Encoding '${encoding.slice(0, 40)}' are not accepted; send plain bytes.`;
      throw unsupportedMediaType(message, 'unsupported_content_encoding');
    }
    if (c.req.method === 'GET' || c.req.method === 'HEAD' || streamed.has(routeOf(c) ?? '')) return next();
    const bytes = await readBody(c, maxBytes);
    if (bytes.byteLength > 0) {
      const value = parse(c, bytes);
      c.req.json = (async () => value) as typeof c.req.json;
    }
    return next();
  };
}

async function readBody(c: AppContext, maxBytes: number): Promise<Uint8Array> {
  const declared = Number(c.req.header('content-length') ?? Number.NaN);
  if (declared > maxBytes) throw payloadTooLarge(maxBytes);
  const overSocket = c.env?.incoming !== undefined;
  if (overSocket && Number.isNaN(declared) && !c.req.header('transfer-encoding')) return new Uint8Array();
  // Node holds a sender to its Content-Length, so only a chunked body must be counted by hand.
  if (Number.isInteger(declared)) return new Uint8Array(await c.req.arrayBuffer());
  const chunks: Uint8Array[] = [];
  let received = 0;
  for await (const chunk of c.req.raw.body ?? []) {
    received += chunk.byteLength;
    if (received > maxBytes) throw payloadTooLarge(maxBytes);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function parse(c: AppContext, bytes: Uint8Array): unknown {
  const type = (c.req.header('content-type') ?? '').split(';')[0]?.trim() ?? '';
  if (!JSON_TYPE.test(type)) {
    throw unsupportedMediaType(`Unsupported Content-Type '${type.slice(0, 80)}'. Send 'application/json'.`);
  }
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw invalidJson('the body is not valid UTF-8');
  }
  try {
    scanJson(text, LIMITS);
    return JSON.parse(text);
  } catch (error) {
    if (error instanceof JsonFault) throw badRequest(error.message, error.path, error.code);
    if (error instanceof SyntaxError) throw invalidJson(error.message.slice(0, 200));
    throw error;
  }
}
