/**
 * A folder for this process alone, under a root that the workers of several machines may share. Knows nothing of what
 * is put into it; whoever opened it removes it at the end.
 */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import path from 'node:path';
import { isAlive } from '../src/embedded/processes.ts';

/**
 * Makes this process's folder, empty and closed to other users, and removes those of processes of this machine that
 * were killed. @returns its path, the same for every call of one process and root
 */
export async function openProcessFolder(root: string): Promise<string> {
  const own = path.join(root, `${hostname()}-${process.pid}`);
  await rm(own, { recursive: true, force: true });
  await mkdir(own, { recursive: true, mode: 0o700 });
  for (const name of await readdir(root)) {
    const match = /^(.+)-(\d+)$/.exec(name);
    if (match?.[1] !== hostname() || isAlive(Number(match[2]))) continue;
    await rm(path.join(root, name), { recursive: true, force: true });
  }
  return own;
}
