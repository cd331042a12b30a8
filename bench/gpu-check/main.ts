/**
 * `npm run gpu:check [-- --device cpu]`, `./lathe gpu-check` in the bundle: runs check.ts in a process of its own and ends
 * it, and all it started, before nine minutes are over; what it had found until then is kept, printed and judged. Exit
 * code 0 all judged lines hold, 1 some do not, 3 no CUDA device.
 */
import { spawn } from 'node:child_process';
import path from 'node:path';
import { load, type Report } from './report.ts';

/** The check and everything below it is killed after so long; the rest of nine minutes is for the table. */
const END_SECONDS = 530;

const script = path.join(import.meta.dirname, 'check.ts');
const started = performance.now();
const check = spawn(process.execPath, [...process.execArgv, script, ...process.argv.slice(2)], {
  stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  detached: true, // a process group of its own, so that peers and trainers end with it
});
let file: string | null = null;
check.on('message', (message: { file: string }) => {
  file = message.file;
});
let wasStopped = false;
const stop = (): void => {
  wasStopped = true;
  if (check.pid !== undefined) process.kill(-check.pid, 'SIGKILL');
};
const timer = setTimeout(stop, END_SECONDS * 1000 - started);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, stop);
check.once('error', (error) => {
  throw error;
});
check.once('close', (code, signal) => {
  clearTimeout(timer);
  process.exitCode = code ?? 1;
  if (signal === null || file === null) return;
  const report: Report = load(file);
  const seconds = Math.round(performance.now() / 1000);
  const what = wasStopped ? `stopped after ${seconds} s` : `ended by ${signal} after ${seconds} s`;
  report.judge('the whole check', what, `ends by itself within ${END_SECONDS} s`, false);
  report.save(file);
  console.log(report.summary(file));
});
