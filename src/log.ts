/**
 * JSON log lines. Secrets never reach them: errors lose the values that a statement was called with, and every line is
 * searched before it is written for fields known by name, keys, bearer tokens and webhook secrets. Knows nothing of
 * requests or jobs; callers bind their ids.
 */
import { type DestinationStream, type Logger, pino } from 'pino';
import { errorForLog } from './log-errors.ts';

export type Log = Logger;
export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';

/** In lower case; at any depth. */
const SECRET_FIELDS = new Set([
  'authorization',
  'cookie',
  'x-api-key',
  'hf_token',
  'secretaccesskey',
  'workertoken',
  'password',
]);
const SECRET_TEXT: [RegExp, string][] = [
  [/sk-[A-Za-z0-9_-]{6,}/g, 'sk-[redacted]'],
  [/whsec_[A-Za-z0-9+/=_-]{6,}/g, 'whsec_[redacted]'],
  [/\b(Bearer)\s+[^\s"\\]+/gi, '$1 [redacted]'],
  [/(postgres(?:ql)?:\/\/[^:/@\s"]+):[^@\s"]+@/g, '$1:[redacted]@'],
];

/** Nearly no line holds anything of the kind, and one look tells: what follows costs more than all else of a line. */
const SUSPECT = new RegExp([...SECRET_FIELDS, 'sk-', 'whsec_', 'bearer', 'postgres'].join('|'), 'i');

/** Replaces everything in `text` that looks like a key, a bearer token, a signing secret or a database password. */
function redactSecrets(text: string): string {
  let clean = text;
  for (const [pattern, replacement] of SECRET_TEXT) clean = clean.replace(pattern, replacement);
  return clean;
}

function redactLine(line: string): string {
  if (!SUSPECT.test(line)) return line;
  const fields = JSON.parse(line, (name, value) =>
    SECRET_FIELDS.has(name.toLowerCase()) ? '[redacted]' : value,
  );
  return `${redactSecrets(JSON.stringify(fields))}\n`;
}

/** Lines kept while they cannot be written; more are dropped. */
const UNWRITTEN_BYTES_MAX = 1 << 20;

/**
 * Standard output. What it leads to may be full or broken, which is no reason to end a process that serves or trains:
 * lines wait then and come out when there is room, the newest being dropped first.
 */
function standardOutput(): DestinationStream {
  const destination = pino.destination({ fd: 1, sync: true, maxLength: UNWRITTEN_BYTES_MAX });
  destination.on('error', () => {}); // there is no place left to tell it
  return destination;
}

/** A logger that writes one JSON object a line to `destination` (standard output unless told otherwise). */
export function createLog(
  options: { level: LogLevel; name?: string },
  destination: DestinationStream = standardOutput(),
): Log {
  return pino(
    {
      level: options.level,
      base: options.name ? { name: options.name, pid: process.pid } : { pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      serializers: { err: errorForLog },
      hooks: { streamWrite: redactLine },
    },
    destination,
  );
}
