/**
 * One process of the service under the eyes of `lathe up`: its output goes to a log file, it is started again when it
 * dies (with growing pauses), and it never outlives its parent.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { EXIT_CONFIG, PROJECT_ROOT } from '../config.ts';
import { openLogFile, trimLogFile } from './log-file.ts';

export { EXIT_CONFIG };

export interface ChildSpec {
  name: string;
  /** Program and arguments, relative to the project. */
  command: [string, ...string[]];
  env: () => Record<string, string>;
  logFile: string;
  /** Messages over IPC. */
  onMessage?: (message: unknown) => void;
  /** It ended without being asked; a restart follows in `milliseconds` (null: it asked not to be started again). */
  onDeath: (how: string, milliseconds: number | null) => void;
  /** Something is wrong that does not end the child: its log cannot be kept small. */
  onTrouble: (what: string) => void;
}

export interface Child {
  readonly pid: number | undefined;
  /** SIGTERM, then SIGKILL after `graceMs`; resolves when it is gone. */
  stop(graceMs: number): Promise<void>;
  /** SIGKILL at once. */
  kill(): void;
}

const PAUSES_MS = [500, 1_000, 2_000, 5_000, 10_000, 30_000];
/** A child that lived this long starts again with the shortest pause. */
const HEALTHY_MS = 60_000;
/** How often logs are looked at: they must not fill the disk. */
export const LOG_CHECK_MS = 10_000;

/** Starts the child and keeps it alive until stop(). */
export function superviseChild(spec: ChildSpec): Child {
  let current: ChildProcess | undefined;
  let stopping = false;
  let deaths = 0;

  const trimming = setInterval(() => {
    try {
      trimLogFile(spec.logFile);
    } catch (error) {
      spec.onTrouble(`its log cannot be trimmed: ${(error as Error).message}`);
    }
  }, LOG_CHECK_MS).unref();
  const died = (child: ChildProcess | null, how: string, code: number | null, livedMs: number) => {
    if (stopping || (child && child !== current)) return;
    current = undefined; // a death is told once
    if (livedMs > HEALTHY_MS) deaths = 0;
    if (code === EXIT_CONFIG) return spec.onDeath(how, null);
    const pause = PAUSES_MS[Math.min(deaths++, PAUSES_MS.length - 1)]!;
    spec.onDeath(how, pause);
    void sleep(pause).then(() => stopping || start());
  };
  const start = () => {
    const began = performance.now();
    let child: ChildProcess;
    try {
      child = launch(spec);
    } catch (error) {
      return died(null, `could not be started: ${(error as Error).message}`, null, 0);
    }
    current = child;
    if (spec.onMessage) child.on('message', spec.onMessage);
    // One that could not be spawned has no exit; later errors concern signals and messages that it missed.
    child.on('error', (error) => {
      if (child.pid === undefined) died(child, `could not be started: ${error.message}`, null, 0);
    });
    child.once('exit', (code, signal) => {
      const how = signal ? `was killed by ${signal}` : `ended with code ${code}`;
      died(child, how, code, performance.now() - began);
    });
  };
  start();

  return {
    get pid() {
      return current?.pid;
    },
    kill: () => {
      stopping = true;
      clearInterval(trimming);
      current?.kill('SIGKILL');
    },
    stop: async (graceMs) => {
      stopping = true;
      clearInterval(trimming);
      const child = current;
      if (!child || child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
      await gone;
      clearTimeout(timer);
    },
  };
}

/** Flags for a Node that runs one of our programs. */
export function nodeFlags(options: { endWithParent: boolean }): string[] {
  const preload = (file: string) => ['--import', pathToFileURL(path.join(PROJECT_ROOT, 'src', file)).href];
  return [
    ...preload('fast-imports.ts'),
    ...(options.endWithParent ? preload('commands/with-parent.ts') : []),
  ];
}

function launch(spec: ChildSpec): ChildProcess {
  const log = openLogFile(spec.logFile);
  const [program, ...args] = spec.command;
  try {
    // A process group of its own: Ctrl-C must reach `up`, which stops the others in order.
    return spawn(
      process.execPath,
      [...nodeFlags({ endWithParent: true }), path.join(PROJECT_ROOT, program), ...args],
      {
        cwd: PROJECT_ROOT,
        env: spec.env(),
        detached: true,
        stdio: ['ignore', log, log, ...(spec.onMessage ? (['ipc'] as const) : [])],
      },
    );
  } finally {
    closeSync(log);
  }
}
