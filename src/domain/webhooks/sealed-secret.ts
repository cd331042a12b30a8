/**
 * Signing secrets as they lie in the database: sealed with AES-256-GCM under the operator's key, each bound to its
 * endpoint, or the plain text where no key is configured. What was written without a key stays readable with one.
 */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';

const PREFIX = 'sealed.v1';
const IV_BYTES = 12;
const TAG_BYTES = 16;

/** Names a key without telling it, so that a row finds its own among several. */
const nameOf = (key: Buffer) => createHash('sha256').update(key).digest('hex').slice(0, 8);

/**
 * Writes and reads secrets under `keys` (base64, 32 bytes each): the first seals, any opens. Without keys `seal` gives
 * the text itself.
 */
export function secretBox(keys: readonly string[]) {
  const known = keys.map((text) => Buffer.from(text, 'base64'));
  return {
    /** The stored form of a secret of `endpointId`: `sealed.v1.<key>.<iv, tag and ciphertext in base64url>`. */
    seal: (secret: string, endpointId: string): string => {
      const key = known[0];
      if (!key) return secret;
      const iv = randomBytes(IV_BYTES);
      const cipher = createCipheriv('aes-256-gcm', key, iv).setAAD(Buffer.from(endpointId));
      const text = Buffer.concat([cipher.update(secret, 'utf8'), cipher.final()]);
      const sealed = Buffer.concat([iv, cipher.getAuthTag(), text]).toString('base64url');
      return `${PREFIX}.${nameOf(key)}.${sealed}`;
    },
    /** The secret of `endpointId`, or null when it was sealed under a key that is not there. Throws when it was altered. */
    open: (stored: string, endpointId: string): string | null => {
      if (!stored.startsWith(`${PREFIX}.`)) return stored;
      const [name, sealed] = stored.slice(PREFIX.length + 1).split('.') as [string, string];
      const key = known.find((each) => nameOf(each) === name);
      if (!key) return null;
      const bytes = Buffer.from(sealed, 'base64url');
      const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, IV_BYTES))
        .setAAD(Buffer.from(endpointId))
        .setAuthTag(bytes.subarray(IV_BYTES, IV_BYTES + TAG_BYTES));
      const text = bytes.subarray(IV_BYTES + TAG_BYTES);
      return Buffer.concat([decipher.update(text), decipher.final()]).toString('utf8');
    },
  };
}
