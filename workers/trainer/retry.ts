/**
 * Repeats what failed because the database or the object store was away, for as long as the attempt holds its lease.
 * Everything else is thrown on at once.
 */
import { setTimeout as sleep } from 'node:timers/promises';

/** Postgres classes: connection, resources, shutdown, deadlock and serialisation, lock and statement timeouts. */
const TRANSIENT_SQLSTATE = /^(08|53|57P|57014|40001|40P01|55P03)/;
const TRANSIENT_SYSTEM = [
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
];
const TRANSIENT_TEXT =
  /connection terminated|is not queryable|timeout exceeded when trying to connect|query read timeout|socket hang up/i;
const TRANSIENT_NAMES = [
  'StorageUnavailable',
  'TimeoutError',
  'NetworkingError',
  'SlowDown',
  'ServiceUnavailable',
  'InternalError',
  'RequestTimeout',
];

/** True when doing the same thing again may work. */
export function isTransient(error: unknown): boolean {
  for (let at = error; at instanceof Error; at = at.cause) {
    const { code, $metadata } = at as { code?: unknown; $metadata?: { httpStatusCode?: number } };
    if (typeof code === 'string' && (TRANSIENT_SQLSTATE.test(code) || TRANSIENT_SYSTEM.includes(code)))
      return true;
    if (TRANSIENT_NAMES.includes(at.name) || TRANSIENT_TEXT.test(at.message)) return true;
    const status = $metadata?.httpStatusCode ?? 0;
    if (status >= 500 || status === 429) return true;
  }
  return false;
}

/** The innermost cause in one line. The outer ones quote statements with their parameters, which stay out of logs. */
export function reasonOf(error: unknown): string {
  let at = error;
  while (at instanceof Error && at.cause !== undefined) at = at.cause;
  return at instanceof Error ? at.message : String(at);
}

const FIRST_WAIT_MS = 200;
const LONGEST_WAIT_MS = 15_000;

/** Waits for `work`, but no longer than until `signal` is aborted: a dead connection may never answer. */
export function unlessAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const leave = () => reject(signal.reason);
    if (signal.aborted) leave();
    signal.addEventListener('abort', leave);
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', leave));
  });
}

/**
 * Runs `work` until it succeeds or fails for good. Waits double from 0.2 to 15 s. The lease bounds the whole: when
 * `signal` is aborted, its reason is thrown.
 */
export async function untilDone<T>(
  signal: AbortSignal,
  work: () => Promise<T>,
  onRetry: (error: unknown, waitMs: number) => void,
): Promise<T> {
  for (let waitMs = FIRST_WAIT_MS; ; waitMs = Math.min(LONGEST_WAIT_MS, waitMs * 2)) {
    signal.throwIfAborted();
    try {
      return await unlessAborted(signal, work());
    } catch (error) {
      signal.throwIfAborted();
      if (!isTransient(error)) throw error;
      onRetry(error, waitMs);
      await sleep(waitMs, undefined, { signal }).catch(() => signal.throwIfAborted());
    }
  }
}
