/**
 * Loaded before a child's own program (`node --import`): ends the process when its parent is gone, so that a killed
 * `lathe up` leaves nothing behind. First politely, so that a trainer can save its work.
 */
const parent = process.ppid;
const GRACE_MS = 10_000;

const timer = setInterval(() => {
  if (process.ppid === parent) return;
  clearInterval(timer);
  process.kill(process.pid, 'SIGTERM');
  setTimeout(() => process.kill(process.pid, 'SIGKILL'), GRACE_MS).unref();
}, 500);
timer.unref();
