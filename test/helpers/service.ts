/**
 * `lathe up` as a process, for tests that need the whole service: a home of its own, any free port, and a tiny random
 * model unless told otherwise.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { nodeFlags } from '../../src/commands/child.ts';
import { homeHolder } from '../../src/commands/home-lock.ts';
import { openDevice } from '../../workers/engine/device.ts';
import { readModelConfig } from '../../workers/engine/models/config.ts';
import { createModel } from '../../workers/engine/models/open-model.ts';
import { plainEnvironment } from './programs.ts';

export const ROOT = path.resolve(import.meta.dirname, '../..');
const SHIPPED = path.join(ROOT, 'models', 'lathe-tiny');
const CLI = path.join(ROOT, 'src', 'cli.ts');

/** A folder that the account of Postgres can enter; remove it with removeHome. */
export function makeHome(): string {
  const home = mkdtempSync(path.join(tmpdir(), 'lathe-home-'));
  chmodSync(home, 0o711);
  return home;
}

export function removeHome(home: string): void {
  rmSync(home, { recursive: true, force: true });
}

/** A two-layer model with random weights and the shipped tokenizer, in Hugging Face's layout. */
export async function makeRandomModel(folder: string): Promise<void> {
  const json = (name: string) => JSON.parse(readFileSync(path.join(SHIPPED, name), 'utf8'));
  const small = {
    hidden_size: 64,
    intermediate_size: 128,
    num_hidden_layers: 2,
    head_dim: 32,
    num_attention_heads: 2,
    num_key_value_heads: 1,
  };
  const config = readModelConfig(
    { ...json('config.json'), ...small, max_window_layers: 2 },
    json('generation_config.json'),
  );
  const device = openDevice({ kind: 'cpu' });
  const model = createModel(config, device, { dtype: 'bf16', seed: 1, trainable: true });
  mkdirSync(folder, { recursive: true });
  await model.save(folder);
  model.dispose();
  for (const name of ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja']) {
    cpSync(path.join(SHIPPED, name), path.join(folder, name));
  }
}

/** The environment without anything that could lead a test to somebody's real service. */
function cleanEnvironment(home: string, extra: Record<string, string> = {}): Record<string, string> {
  return { ...plainEnvironment(), LATHE_HOME: home, PORT: '0', LATHE_THREADS: '1', ...extra };
}

const started = new Set<ChildProcess>();

/** Starts one command. */
export function spawnLathe(home: string, args: string[], extra: Record<string, string> = {}) {
  const command = [...nodeFlags({ endWithParent: true }), CLI, ...args];
  const child = spawn(process.execPath, command, { cwd: '/', env: cleanEnvironment(home, extra) });
  started.add(child);
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (chunk) => (stdout += chunk));
  child.stderr.on('data', (chunk) => (stderr += chunk));
  const gone = new Promise<number | null>((resolve) => child.once('close', resolve));
  return {
    process: child,
    /** Everything it printed so far. */
    output: () => stdout + stderr,
    stdout: () => stdout,
    stderr: () => stderr,
    gone,
    /** Sends the signal and waits; the exit code. */
    stop: (signal: NodeJS.Signals) => {
      child.kill(signal);
      return gone;
    },
  };
}

/** Runs one command to its end. */
export async function lathe(home: string, args: string[], extra: Record<string, string> = {}) {
  const command = spawnLathe(home, args, extra);
  return { status: await command.gone, stdout: command.stdout(), stderr: command.stderr() };
}

export interface RunningService {
  process: ChildProcess;
  url: string;
  /** Everything it printed so far. */
  output(): string;
  /** SIGTERM (or `signal`) and wait; the exit code. */
  stop(signal?: NodeJS.Signals): Promise<number | null>;
}

/** For afterAll: kills what is still running, also what never became ready. Their children follow by themselves. */
export function killServices(): void {
  for (const child of started) child.kill('SIGKILL');
  started.clear();
}

/** Starts `lathe up` and waits until the API listens. Throws with its output when it ends instead. */
export async function startService(
  home: string,
  extra: Record<string, string> = {},
): Promise<RunningService> {
  const { process: child, output, stop } = spawnLathe(home, ['up'], extra);
  for (
    let holder = homeHolder(home);
    !(holder?.pid === child.pid && holder?.url);
    holder = homeHolder(home)
  ) {
    if (child.exitCode !== null || child.signalCode !== null) throw new Error(`lathe up ended: ${output()}`);
    await sleep(25);
  }
  return { process: child, url: homeHolder(home)!.url!, output, stop: (signal = 'SIGTERM') => stop(signal) };
}
