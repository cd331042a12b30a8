/**
 * The lock file a running Postgres keeps in its data folder, and what to do about the process it names: ours and
 * alive (after our parent was killed), or long gone.
 */
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { commandLine, isAlive, waitForExit } from './processes.ts';

export interface Postmaster {
  pid: number;
  port: number;
  ready: boolean;
}

/** What postmaster.pid says (pid, data folder, start, port, socket folder, address, shared memory, status), or null. */
export function readPostmaster(data: string): Postmaster | null {
  let text: string;
  try {
    text = readFileSync(path.join(data, 'postmaster.pid'), 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
  const lines = text.split('\n');
  return { pid: Number(lines[0]), port: Number(lines[3]), ready: lines[7]?.trim() === 'ready' };
}

/** True when the pid is alive and runs Postgres on this very folder, not a stranger that inherited the number. */
export function isPostmasterOf(pid: number, data: string): boolean {
  if (!Number.isInteger(pid) || pid <= 1 || !isAlive(pid)) return false;
  const command = commandLine(pid);
  return /(^|\/)postgres\s/.test(command) && command.includes(`-D ${data} `);
}

/** Removes the lock file of a server that is gone; Postgres would refuse to start if its pid lives on elsewhere. */
export function clearStaleLock(data: string): void {
  rmSync(path.join(data, 'postmaster.pid'), { force: true });
}

/** Fast shutdown (open transactions are rolled back, everything is written), harder when it does not come. */
export async function stopPostmaster(pid: number, data: string): Promise<void> {
  for (const [signal, milliseconds] of [
    ['SIGINT', 20_000],
    ['SIGQUIT', 5_000],
    ['SIGKILL', 5_000],
  ] as const) {
    if (!isPostmasterOf(pid, data)) return;
    process.kill(pid, signal);
    if (await waitForExit(pid, milliseconds)) return;
  }
  throw new Error(`Postgres (pid ${pid}) on ${data} does not stop.`);
}
