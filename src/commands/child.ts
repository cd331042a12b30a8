/**
 * One process of the service under the eyes of `lathe up`: its output goes to a log file, it is started again when it
 * dies (with growing pauses), and it never outlives its parent.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, renameSync, statSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { EXIT_CONFIG, PROJECT_ROOT } from '../config.ts';

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
const LOG_BYTES_MAX = 20 * 1024 * 1024;

/** Starts the child and keeps it alive until stop(). */
export function superviseChild(spec: ChildSpec): Child {
  let current: ChildProcess | undefined;
  let stopping = false;
  let deaths = 0;

  const start = () => {
    const began = performance.now();
    const child = launch(spec);
    current = child;
    if (spec.onMessage) child.on('message', spec.onMessage);
    child.once('exit', (code, signal) => {
      if (stopping) return;
      if (performance.now() - began > HEALTHY_MS) deaths = 0;
      const how = signal ? `was killed by ${signal}` : `ended with code ${code}`;
      if (code === EXIT_CONFIG) return spec.onDeath(how, null);
      const pause = PAUSES_MS[Math.min(deaths++, PAUSES_MS.length - 1)]!;
      spec.onDeath(how, pause);
      void sleep(pause).then(() => stopping || start());
    });
  };
  start();

  return {
    get pid() {
      return current?.pid;
    },
    kill: () => {
      stopping = true;
      current?.kill('SIGKILL');
    },
    stop: async (graceMs) => {
      stopping = true;
      const child = current;
      if (!child || child.exitCode !== null || child.signalCode !== null) return;
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
  if (existsSync(spec.logFile) && statSync(spec.logFile).size > LOG_BYTES_MAX) {
    renameSync(spec.logFile, `${spec.logFile}.1`);
  }
  const log = openSync(spec.logFile, 'a', 0o600);
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

/** What a log file says last, short enough for a terminal: the error of a stack trace, plain lines, or a message. */
export function lastWords(file: string): string {
  if (!existsSync(file)) return '(no log)';
  const lines = readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => /[A-Za-z]/.test(line));
  const plain = lines.slice(lines.findLastIndex((line) => line.startsWith('{')) + 1);
  const last = lines.at(-1) ?? '';
  const message = /"msg":"((?:[^"\\]|\\.)*)"/.exec(last)?.[1] ?? last;
  const words =
    plain.length === 0
      ? message
      : (plain.find((line) => /^\w*Error\b/.test(line)) ?? plain.slice(-3).join(' | '));
  return words.slice(0, 300);
}
