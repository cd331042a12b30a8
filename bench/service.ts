/** A whole service in a folder of its own, for benchmarks that speak HTTP. */
import { readdirSync, readFileSync } from 'node:fs';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openService } from '../scripts/quickstart-service.ts';
import { homeHolder } from '../src/commands/home-lock.ts';
import { loadConfig } from '../src/config.ts';
import { runningPostgresUrl } from '../src/embedded/postgres.ts';

export interface BenchService {
  url: string;
  key: string;
  /** Process id of the API. */
  apiPid: number;
  databaseUrl: string;
}

/** Starts a service on a free port with these settings, runs `work` against it, and removes everything. */
export async function withService<T>(
  work: (service: BenchService) => Promise<T>,
  settings: Record<string, string> = {},
): Promise<T> {
  const home = await mkdtemp(join(tmpdir(), 'lathe-bench-'));
  await chmod(home, 0o711); // where Postgres runs as another user, it must be able to enter
  const service = await openService(
    loadConfig({ ...environment(), ...settings, LATHE_HOME: home }),
    false,
    new AbortController().signal,
    (line) => console.error(line),
  );
  try {
    return await work({
      url: service.url,
      key: service.key,
      apiPid: childRunning(homeHolder(home)!.pid, 'api'),
      databaseUrl: runningPostgresUrl(home)!,
    });
  } finally {
    await service.stop();
    await rm(home, { recursive: true, force: true });
  }
}

const environment = () => ({ PATH: process.env.PATH, HOME: process.env.HOME });

/** The child of `parent` whose command line ends with `word` (Linux). */
function childRunning(parent: number, word: string): number {
  for (const entry of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const ppid = Number(/\) \S (\d+)/.exec(readFileSync(`/proc/${entry}/stat`, 'utf8'))?.[1]);
      const args = readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0').filter(Boolean);
      if (ppid === parent && args.at(-1) === word) return Number(entry);
    } catch {} // the process ended while we looked
  }
  throw new Error(`process ${parent} has no child '${word}'`);
}
