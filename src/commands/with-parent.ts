/**
 * Loaded before a child's own program (`node --import`): ends the process when its parent is gone, so that a killed
 * `lathe up` leaves nothing behind. First politely, so that a trainer can save its work; the embedded Postgres keeps
 * the sessions it has open for as long (embedded/postgres.ts).
 */
import { isMainThread } from 'node:worker_threads';

const parent = process.ppid;
const GRACE_MS = 10_000;

function watch(): void {
  const timer = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(timer);
    process.kill(process.pid, 'SIGTERM');
    setTimeout(() => process.kill(process.pid, 'SIGKILL'), GRACE_MS).unref();
  }, 500);
  timer.unref();
}

if (isMainThread) watch(); // threads are started with the same flags
