/** Small C++ programs of the benchmarks, compiled when they are first needed and kept outside the repository. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** A program that did not compile; the message holds what the compiler said last. */
export class BuildError extends Error {
  override name = 'BuildError';
}

/** The program made from `source` (paths under bench/, the first is compiled), for this processor; its path. */
export function program(sources: string[], libraries: string[] = []): string {
  const files = sources.map((source) => join(import.meta.dirname, '..', source));
  const flags = ['-std=c++17', '-O2', '-march=native', '-pthread'];
  const hash = createHash('sha256').update(JSON.stringify([flags, libraries]));
  for (const file of files) hash.update(readFileSync(file));
  const folder = join(homedir(), '.cache', 'lathe-bench');
  const target = join(folder, hash.digest('hex').slice(0, 24));
  if (existsSync(target)) return target;
  mkdirSync(folder, { recursive: true });
  const fresh = `${target}.${process.pid}`;
  try {
    execFileSync('g++', [...flags, files[0]!, '-o', fresh, ...libraries.map((name) => `-l${name}`)], {
      stdio: 'pipe',
      encoding: 'utf8',
    });
  } catch (error) {
    const said = String((error as { stderr?: string }).stderr ?? (error as Error).message);
    throw new BuildError(`${sources[0]} did not compile: ${said.slice(-600)}`);
  }
  renameSync(fresh, target);
  return target;
}
