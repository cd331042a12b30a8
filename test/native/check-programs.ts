/**
 * The programs of test/native/cuda, which run the sources of native/cuda on a CPU: compiled with g++ when anything they
 * may be made of has changed, and kept in native/build/checks. Says nothing about what they find.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const native = join(import.meta.dirname, '..', '..', 'native');
const checks = join(import.meta.dirname, 'cuda');
const kept = join(native, 'build', 'checks');
const FLAGS = ['-std=c++20', '-w', '-ffp-contract=off', '-fno-strict-aliasing', '-I', checks];

/** Sources that are compiled with the same flags; each unit has a folder of its own, so names may recur. */
export interface Unit {
  flags: string[];
  /** Names without a folder are those of test/native/cuda; `cpu/…`, `core/…` and `cuda/…` those of native. */
  sources: string[];
}

/** The compiler and every file that a check program may include, as one hash. */
async function everything(): Promise<string> {
  const { stdout } = await run('g++', ['--version']);
  const hash = createHash('sha256').update(stdout);
  for (const folder of [checks, ...['core', 'cpu', 'cuda'].map((name) => join(native, name))])
    for (const name of readdirSync(folder).sort()) {
      const file = join(folder, name);
      if (statSync(file).isFile()) hash.update(`${file}\n`).update(readFileSync(file));
    }
  return hash.digest('hex');
}

/** The path of the program; compiled now unless it is there. Rejects with the compiler's output. */
async function program(name: string, units: Unit[], libraries: string[] = []): Promise<string> {
  const made = JSON.stringify([await everything(), FLAGS, units, libraries]);
  const target = join(kept, `${name}-${createHash('sha256').update(made).digest('hex').slice(0, 16)}`);
  if (existsSync(target)) return target;
  mkdirSync(kept, { recursive: true });
  const work = mkdtempSync(join(kept, '.work-'));
  try {
    const objects = await Promise.all(
      units.map(async ({ flags, sources }, i) => {
        const cwd = join(work, String(i));
        mkdirSync(cwd);
        const files = sources.map((file) => join(file.includes('/') ? native : checks, file));
        await run('g++', [...FLAGS, ...flags, '-c', ...files], { cwd });
        return readdirSync(cwd).map((object) => join(cwd, object));
      }),
    );
    await run('g++', [...objects.flat(), '-o', join(work, 'program'), ...libraries]);
    for (const old of readdirSync(kept))
      if (old.startsWith(`${name}-`)) rmSync(join(kept, old), { force: true });
    renameSync(join(work, 'program'), target);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return target;
}

/**
 * Runs a check program on fresh inputs of this seed, with an empty folder for what it may write; its lines, each of
 * which begins with ok or FAIL.
 */
export async function check(
  name: string,
  units: Unit[],
  options: { seed: number; libraries?: string[] },
): Promise<string[]> {
  const path = await program(name, units, options.libraries);
  const folder = mkdtempSync(join(tmpdir(), 'lathe-check-'));
  try {
    const { stdout } = await run(path, [String(options.seed), folder]).catch((error) => {
      if (typeof error.stdout !== 'string' || error.stdout === '') throw error;
      const told = error.stdout.includes('FAIL');
      return {
        stdout: told ? error.stdout : `${error.stdout}\nFAIL ended with ${error.signal ?? error.code}`,
      };
    });
    return stdout.trim().split('\n');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Lines that say what is wrong. */
export const failed = (lines: string[]) => lines.filter((line) => !line.startsWith('ok'));
