/**
 * The embedded Postgres: a real server on loopback, with a password only this installation knows, its data under
 * LATHE_HOME. Starting finds whatever an earlier life left: a server still running is used, a dead one's lock removed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, renameSync, statSync } from 'node:fs';
import path from 'node:path';
import { choosePlace, existingFolder, type Place } from './account.ts';
import { type Binaries, findBinaries } from './binaries.ts';
import {
  checkVersion,
  choosePort,
  initialize,
  lastPort,
  prepareDatabase,
  readPassword,
  savePort,
  urlOf,
} from './cluster.ts';
import { clearStaleLock, isPostmasterOf, readPostmaster, stopPostmaster } from './postmaster.ts';

export interface EmbeddedPostgres {
  /** Connection URL of the database `lathe`, password included. */
  url: string;
  pid: number;
  /** True when it was already running, left over from a parent that died. */
  adopted: boolean;
  logFile: string;
  /** One line for the user about where the data lies, if that is a surprise. */
  note: string | null;
  /** Resolves when the server has ended for whatever reason. */
  ended: Promise<void>;
  stop(): Promise<void>;
}

export interface EmbeddedOptions {
  home: string;
  /** Postgres settings on top of ours; tests turn fsync off here. */
  settings?: Record<string, string>;
}

const START_ATTEMPTS = 5;
const LOG_BYTES_MAX = 10 * 1024 * 1024;

/** The server of a home cannot be made or started; the message is for the person at the terminal. */
export class EmbeddedPostgresError extends Error {
  override name = 'EmbeddedPostgresError';
}

/**
 * Starts (or adopts) the server of `home` and waits until it answers. The caller holds the home's lock.
 * @throws EmbeddedPostgresError
 */
export async function startEmbeddedPostgres(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  try {
    return await startOrAdopt(options);
  } catch (error) {
    if (!(error instanceof Error) || error.name !== 'Error') throw error; // a mistake in the code
    const full = error.message.split('\n').find((line) => /No space left|ENOSPC|quota|EDQUOT/i.test(line));
    const room = `the disk of ${options.home} is full. A new database takes about 50 MB there`;
    const message = full ? `The embedded Postgres has no room: ${room}. ${full}` : error.message;
    throw new EmbeddedPostgresError(message, { cause: error });
  }
}

async function startOrAdopt(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  const place = choosePlace(path.resolve(options.home));
  const data = path.join(place.folder, 'data');
  const binaries = findBinaries(place.account, place.copies);
  if (!existsSync(data)) initialize(place, binaries, data);
  checkVersion(data, binaries);
  const password = readPassword(place.folder);

  const running = await adopt(data, password);
  const server = running ?? (await launch(place, binaries, data, password, options.settings ?? {}));
  return {
    url: urlOf(server.port, password),
    pid: server.pid,
    adopted: running !== null,
    logFile: path.join(place.folder, 'log'),
    note: place.note,
    ended: server.ended,
    stop: async () => {
      await stopPostmaster(server.pid, data);
      await server.ended;
    },
  };
}

/** The URL of the server that runs for `home` at this moment, or null. Starts nothing. */
export function runningPostgresUrl(home: string): string | null {
  const folder = existingFolder(path.resolve(home));
  if (folder === null) return null;
  const data = path.join(folder, 'data');
  const found = readPostmaster(data);
  if (!found?.ready || !isPostmasterOf(found.pid, data)) return null;
  return urlOf(found.port, readPassword(folder));
}

interface Server {
  pid: number;
  port: number;
  ended: Promise<void>;
}

/** The server an earlier parent left running, if it still answers; one that does not is stopped. */
async function adopt(data: string, password: string): Promise<Server | null> {
  const found = readPostmaster(data);
  if (!found) return null;
  if (isPostmasterOf(found.pid, data)) {
    const answers = await prepareDatabase(found.port, password).then(
      () => true,
      () => false,
    );
    if (answers) {
      const ended = untilGone(found.pid, data);
      watchParent(found.pid, data, ended);
      return { ...found, ended };
    }
    await stopPostmaster(found.pid, data);
  }
  clearStaleLock(data);
  return null;
}

async function untilGone(pid: number, data: string): Promise<void> {
  while (isPostmasterOf(pid, data)) await new Promise((resolve) => setTimeout(resolve, 250).unref());
}

async function launch(
  place: Place,
  binaries: Binaries,
  data: string,
  password: string,
  settings: Record<string, string>,
): Promise<Server> {
  for (let attempt = 1; ; attempt++) {
    const port = await choosePort(attempt === 1 ? lastPort(place.folder) : 0);
    const child = spawnServer(place, binaries, data, { ...settings, port: String(port) });
    const ended = new Promise<void>((resolve) =>
      child.once('exit', () => resolve()).once('error', () => resolve()),
    );
    if (child.pid !== undefined) {
      watchParent(child.pid, data, ended);
      try {
        if (await becomesReady(child, data)) {
          await prepareDatabase(port, password);
          savePort(place.folder, port);
          return { pid: child.pid, port, ended };
        }
      } catch (error) {
        await stopPostmaster(child.pid, data);
        throw error;
      }
    }
    // The port was taken meanwhile, or workers of a killed server have not noticed its death yet.
    if (attempt === START_ATTEMPTS) {
      throw new Error(
        `The embedded Postgres does not start. Its log, ${logFile(place)}, ends with:\n${logTail(place)}`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 300 * attempt));
  }
}

function spawnServer(
  place: Place,
  binaries: Binaries,
  data: string,
  settings: Record<string, string>,
): ChildProcess {
  const all = {
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    max_connections: '200',
    password_encryption: 'scram-sha-256',
    cluster_name: 'lathe',
    timezone: 'UTC',
    log_timezone: 'UTC',
    ...settings,
  };
  const flags = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const log = openLog(place);
  try {
    // A session of its own: Ctrl-C in a terminal must reach us first and Postgres last.
    return spawn(binaries.postgres, ['-D', data, ...flags], {
      cwd: place.folder,
      env: { LC_ALL: 'C', TZ: 'UTC' },
      detached: true,
      stdio: ['ignore', log, log],
      ...place.account.spawn,
    });
  } finally {
    closeSync(log);
  }
}

async function becomesReady(child: ChildProcess, data: string): Promise<boolean> {
  let failed = false;
  child.once('exit', () => (failed = true)).once('error', () => (failed = true));
  while (!failed) {
    const found = readPostmaster(data);
    if (found?.pid === child.pid && found?.ready) return true;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return false;
}

/**
 * A shell that waits for our end of a pipe to close and then stops the server: when this process is killed outright,
 * nothing of ours can run, but the kernel still closes the pipe. It checks the lock file so as never to signal a
 * stranger, and waits for that file when the server has only just started. The first stop is Postgres's smart one: it
 * lets in nobody new and ends with the last session, so that a trainer can save and hand over through the sessions it
 * has (commands/with-parent.ts gives it 10 s). A server that still runs after that is stopped fast.
 */
function watchParent(pid: number, data: string, ended: Promise<void>): void {
  const script = `read -r _
    signal=TERM
    for second in 0 1 2 3 4 5 6 7 8 9 10 11 12; do
      kill -0 "$1" 2>/dev/null || exit
      if [ "$second" = 12 ]; then signal=INT; fi
      if [ "$signal" != sent ] && [ "$(head -n 1 "$2/postmaster.pid" 2>/dev/null)" = "$1" ]; then
        kill -s "$signal" "$1"
        signal=sent
      fi
      sleep 1
    done`;
  const watcher = spawn('/bin/sh', ['-c', script, 'sh', String(pid), data], {
    cwd: '/',
    env: { PATH: '/usr/bin:/bin' },
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  watcher.once('error', () => {}); // then the next start adopts what a killed parent left running
  watcher.unref();
  (watcher.stdin as unknown as { unref(): void }).unref();
  void ended.then(() => watcher.kill('SIGKILL'));
}

const logFile = (place: Place) => path.join(place.folder, 'log');

function openLog(place: Place): number {
  const file = logFile(place);
  if (existsSync(file) && statSync(file).size > LOG_BYTES_MAX) renameSync(file, `${file}.1`);
  return openSync(file, 'a', 0o600);
}

function logTail(place: Place): string {
  return readFileSync(logFile(place), 'utf8').split('\n').slice(-12).join('\n').trim();
}
