/**
 * The service the quickstart talks to: one that already runs in this home, or one started for it. Also the API key,
 * made before the service starts so that its secret never passes through a log.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { nodeFlags } from '../src/commands/child.ts';
import { withDatabase } from '../src/commands/database.ts';
import { homeHolder } from '../src/commands/home-lock.ts';
import { createKeyCommand, revokeKeyCommand } from '../src/commands/keys.ts';
import { lastWords } from '../src/commands/log-file.ts';
import { type Config, childEnvironment, PROJECT_ROOT } from '../src/config.ts';
import type { Database } from '../src/db/client.ts';

export interface Service {
  url: string;
  key: string;
  /** True when it was running before us: then it is left running. */
  adopted: boolean;
  logs: string;
  /** Ends what this quickstart started and makes its key useless. */
  stop(): Promise<void>;
}

const START_SECONDS = 60;
const STOP_SECONDS = 45;

/**
 * Starts or finds the service and waits until it can train and chat. Throws with the reason and the log's path, also
 * when `signal` is aborted; whatever was started is ended first.
 */
export async function openService(
  config: Config,
  keep: boolean,
  signal: AbortSignal,
  say: (line: string) => void,
): Promise<Service> {
  const logs = path.join(config.home, 'logs');
  const newKey = (db: Database) => createKeyCommand(db, 'quickstart', null);
  const key = await withDatabase(config, 'lathe quickstart', newKey, say);
  mkdirSync(logs, { recursive: true, mode: 0o700 }); // after the home, which others than us must be able to enter
  const running = homeHolder(config.home);
  const process_ = running ? null : start(config, keep, path.join(logs, 'up.log'));
  const service = {
    key,
    adopted: running !== null,
    logs,
    url: '',
    stop: async () => {
      await withDatabase(config, 'lathe quickstart', (db) => revokeKeyCommand(db, key));
      if (process_) await end(process_);
    },
  };
  try {
    service.url = await address(config.home, process_, logs, signal);
    await untilReady(service.url, process_, logs, signal);
    return service;
  } catch (error) {
    if (process_) await end(process_);
    throw error;
  }
}

function start(config: Config, keep: boolean, logFile: string): ChildProcess {
  const log = openSync(logFile, 'a', 0o600);
  const flags = nodeFlags({ endWithParent: !keep });
  try {
    // A kept service has the usual port; one for this run only takes any free one and is in nobody's way.
    const env = childEnvironment(keep ? config : { ...config, port: 0 });
    return spawn(process.execPath, [...flags, path.join(PROJECT_ROOT, 'src', 'cli.ts'), 'up'], {
      cwd: PROJECT_ROOT,
      env,
      detached: true,
      stdio: ['ignore', log, log],
    });
  } finally {
    closeSync(log);
  }
}

async function address(
  home: string,
  process_: ChildProcess | null,
  logs: string,
  signal: AbortSignal,
): Promise<string> {
  return within(process_, logs, signal, 'the API did not start', async () => homeHolder(home)?.url ?? null);
}

async function untilReady(
  url: string,
  process_: ChildProcess | null,
  logs: string,
  signal: AbortSignal,
): Promise<void> {
  await within(process_, logs, signal, 'trainer and inference did not become ready', async () => {
    const answer = await fetch(`${url}/readyz`).catch(() => null);
    if (!answer) return null;
    const { status, workers } = (await answer.json()) as { status: string; workers: Record<string, number> };
    return status === 'ready' && workers.trainer! > 0 && workers.inference! > 0 ? true : null;
  });
}

/** Asks `question` until it has an answer; fails when the service ends or the time is over. */
async function within<T>(
  process_: ChildProcess | null,
  logs: string,
  signal: AbortSignal,
  what: string,
  question: () => Promise<T | null>,
): Promise<T> {
  const until = performance.now() + START_SECONDS * 1000;
  while (performance.now() < until) {
    signal.throwIfAborted();
    const answer = await question();
    if (answer !== null) return answer;
    if (process_ && (process_.exitCode !== null || process_.signalCode !== null)) break;
    await sleep(50);
  }
  throw new Error(`${what}: ${lastWords(path.join(logs, 'up.log'))}\nLogs: ${logs}`);
}

async function end(process_: ChildProcess): Promise<void> {
  if (process_.exitCode !== null || process_.signalCode !== null) return;
  const gone = new Promise((resolve) => process_.once('exit', resolve));
  process_.kill('SIGTERM');
  const timer = setTimeout(() => process_.kill('SIGKILL'), STOP_SECONDS * 1000);
  await gone;
  clearTimeout(timer);
}
