/**
 * One POST to somebody else's server, guarded: no private address, no redirect, little time, and nothing of the answer
 * but its status. Knows nothing of what is sent.
 */
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { AddressRefused, isPublicAddress, literalAddress, publicLookup } from './addresses.ts';

export interface Guard {
  /** Also http and private addresses; for receivers in one's own network. */
  allowPrivate: boolean;
  timeoutMilliseconds: number;
}

/** The status of the answer, or why there is none; `error` is safe to store and show to the endpoint's owner. */
export type Sent = { status: number; error: null } | { status: null; error: string };

const ANSWER_BYTES_MAX = 64 * 1024;
/** Network failures by their name; anything else is not told. */
const KNOWN =
  /^(ECONN\w+|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|EPIPE|CERT_\w+|ERR_TLS\w+|DEPTH_ZERO\w+|SELF_SIGNED\w+|UNABLE_TO\w+)$/;

/** What is wrong with a URL as an endpoint, or null. Addresses behind names are looked at when they are used. */
export function faultOf(text: string, { allowPrivate }: Pick<Guard, 'allowPrivate'>): string | null {
  if (!URL.canParse(text)) return 'expected an absolute URL';
  const url = new URL(text);
  if (url.protocol !== 'https:' && !(allowPrivate && url.protocol === 'http:'))
    return 'expected an https URL';
  if (url.username !== '' || url.password !== '') return 'a URL with a user or password is not accepted';
  if (allowPrivate) return null;
  const address = literalAddress(url);
  if (address !== null && !isPublicAddress(address)) return 'a private address is not accepted';
  if (/(^|\.)localhost\.?$/i.test(url.hostname)) return 'a private address is not accepted';
  return null;
}

/** Sends `body` and waits for the status. Never throws. */
export async function send(
  url: string,
  headers: Record<string, string>,
  body: string,
  guard: Guard,
): Promise<Sent> {
  const fault = faultOf(url, guard);
  if (fault) return { status: null, error: fault };
  const target = new URL(url);
  const request = target.protocol === 'https:' ? httpsRequest : httpRequest;
  return new Promise((resolve) => {
    const call = request(target, {
      method: 'POST',
      agent: false,
      signal: AbortSignal.timeout(guard.timeoutMilliseconds),
      headers: {
        ...headers,
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
        'user-agent': 'Lathe-Webhooks/1.0',
      },
      ...(!guard.allowPrivate && { lookup: publicLookup }),
    });
    call.on('response', (answer) => {
      const status = answer.statusCode ?? 0;
      resolve({ status, error: null });
      let bytes = 0;
      answer.on('data', (chunk: Buffer) => {
        bytes += chunk.byteLength;
        if (bytes > ANSWER_BYTES_MAX) answer.destroy();
      });
      answer.on('error', () => {}); // cut off after its status: what matters is known
    });
    call.on('error', (error) => resolve({ status: null, error: reasonOf(error) }));
    call.end(body);
  });
}

function reasonOf(error: Error): string {
  if (error instanceof AddressRefused) return error.message;
  if (error.name === 'TimeoutError' || error.name === 'AbortError') return 'no answer in time';
  const { code } = error as NodeJS.ErrnoException;
  return code && KNOWN.test(code) ? code : 'the request failed';
}
