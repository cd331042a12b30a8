/**
 * JSON log lines. Secrets never reach them: known fields are redacted by name, errors lose the values that a statement
 * was called with, and every line is searched for keys, bearer tokens and webhook secrets before it is written. Knows nothing of requests or jobs; callers bind their ids.
 */
import { type DestinationStream, type Logger, pino } from 'pino';
import { errorForLog } from './log-errors.ts';

export type Log = Logger;
export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';

const SECRET_FIELDS = [
  'authorization',
  'cookie',
  'x-api-key',
  'hf_token',
  'secretAccessKey',
  'workerToken',
  'password',
];
const SECRET_TEXT: [RegExp, string][] = [
  [/sk-[A-Za-z0-9_-]{6,}/g, 'sk-[redacted]'],
  [/whsec_[A-Za-z0-9+/=_-]{6,}/g, 'whsec_[redacted]'],
  [/\b(Bearer)\s+[^\s"\\]+/gi, '$1 [redacted]'],
  [/(postgres(?:ql)?:\/\/[^:/@\s"]+):[^@\s"]+@/g, '$1:[redacted]@'],
];

/** Replaces everything in `text` that looks like a key, a bearer token, a signing secret or a database password. */
export function redactSecrets(text: string): string {
  let clean = text;
  for (const [pattern, replacement] of SECRET_TEXT) clean = clean.replace(pattern, replacement);
  return clean;
}

/** A logger that writes one JSON object a line to `destination` (standard output unless told otherwise). */
export function createLog(
  options: { level: LogLevel; name?: string },
  destination: DestinationStream = pino.destination({ fd: 1, sync: true }),
): Log {
  const paths = SECRET_FIELDS.flatMap((field) => [`["${field}"]`, `*["${field}"]`, `*.*["${field}"]`]);
  return pino(
    {
      level: options.level,
      base: options.name ? { name: options.name, pid: process.pid } : { pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      serializers: { err: errorForLog },
      redact: { paths, censor: '[redacted]' },
      hooks: { streamWrite: redactSecrets },
    },
    destination,
  );
}
