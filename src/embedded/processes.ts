/**
 * Questions about other processes, answered from /proc where there is one and by ps elsewhere: whether a recorded pid
 * still is the process that wrote it. Pids are reused, so a pid alone proves nothing.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';

const hasProc = existsSync('/proc/self/stat');

/** True while the process exists and is no zombie (also when it belongs to another user). */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false;
  }
  return !hasProc || statFields(pid)?.[0] !== 'Z';
}

/** What tells this life of a pid from a later one: its start time. Null when there is no such process. */
export function processBirth(pid: number): string | null {
  if (!isAlive(pid)) return null;
  if (hasProc) return statFields(pid)?.[19] ?? null; // field 22: start, in clock ticks since boot
  return ps(pid, 'lstart=');
}

/** The process's arguments as one string, '' when it cannot be seen. */
export function commandLine(pid: number): string {
  if (!hasProc) return ps(pid, 'command=') ?? '';
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
  } catch {
    return ''; // it ended meanwhile
  }
}

/** Fields of /proc/<pid>/stat from the third on (the second, the name, may hold spaces and brackets). */
function statFields(pid: number): string[] | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return null; // it ended meanwhile
  }
}

function ps(pid: number, column: string): string | null {
  const answer = spawnSync('/bin/ps', ['-o', column, '-p', String(pid)], { encoding: 'utf8' });
  return answer.status === 0 ? answer.stdout.trim() || null : null;
}

/** Waits until the process is gone; false when it still lives after `milliseconds`. */
export async function waitForExit(pid: number, milliseconds: number): Promise<boolean> {
  const end = performance.now() + milliseconds;
  while (isAlive(pid)) {
    if (performance.now() > end) return false;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return true;
}
