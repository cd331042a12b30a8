/**
 * Standard Webhooks signatures, as OpenAI's SDKs verify them: HMAC-SHA256 over `id.timestamp.body` with the bytes
 * behind `whsec_`.
 */
import { createHmac, randomBytes } from 'node:crypto';

const PREFIX = 'whsec_';

/** A new signing secret of 256 bits. */
export function newSecret(): string {
  return PREFIX + randomBytes(32).toString('base64');
}

/** What may be shown of a secret later on. */
export function hintOf(secret: string): string {
  return `${PREFIX}…${secret.slice(-4)}`;
}

/** The headers of one delivery. `secrets` are all that are valid now: a receiver accepts any of their signatures. */
export function signedHeaders(
  id: string,
  body: string,
  secrets: readonly string[],
  now: Date,
): Record<string, string> {
  const timestamp = String(Math.floor(now.getTime() / 1000));
  const signatures = secrets.map((secret) => {
    const key = Buffer.from(secret.slice(PREFIX.length), 'base64');
    return `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}`;
  });
  return {
    'webhook-id': id,
    'webhook-timestamp': timestamp,
    'webhook-signature': signatures.join(' '),
  };
}
