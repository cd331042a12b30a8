/**
 * Memory as it was foreseen: the estimate beside the measured peak at three settings, each in a fresh process; and a
 * training that does not fit, which must end as that job's failure, with its numbers, in its own process alone.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Device } from '../../workers/engine/device.ts';
import { JobFailed } from '../../workers/trainer/outcomes.ts';
import { round } from '../options.ts';
import type { Context } from './report.ts';
import { trainOnce } from './training-run.ts';

interface Setting {
  shape: string;
  r: number;
  sequences: number;
  length: number;
  recompute: boolean;
}

export const MEMORY_SETTINGS: Record<Device['kind'], Setting[]> = {
  cuda: [
    { shape: 'qwen3-0.6b', r: 16, sequences: 8, length: 2048, recompute: false },
    { shape: 'qwen3-0.6b', r: 16, sequences: 16, length: 2048, recompute: true },
    { shape: 'qwen3-4b', r: 8, sequences: 2, length: 2048, recompute: false },
  ],
  cpu: [
    { shape: 'lathe-tiny', r: 8, sequences: 16, length: 128, recompute: false },
    { shape: 'lathe-tiny', r: 8, sequences: 64, length: 128, recompute: true },
    { shape: 'lathe-tiny', r: 16, sequences: 64, length: 128, recompute: false },
  ],
};

/** How far the estimate may lie from the peak. */
export const DIFFERENCE_MAX = 0.05;
const CHILD_SECONDS = 60;
/** Too little for lathe-tiny's training, more than its weights need. */
const SCARCE_BYTES = 24 * 2 ** 20;

export async function checkMemory(device: Device, { report }: Context): Promise<void> {
  device.trim();
  const differences = MEMORY_SETTINGS[device.kind].map((setting) => {
    const { estimated, peak } = measure(device.kind, setting);
    const difference = estimated / peak - 1;
    const { shape, r, sequences, length, recompute } = setting;
    const how = recompute ? ', blocks computed again' : '';
    report.judge(
      `memory of ${shape}, r=${r}, ${sequences} × ${length} tokens${how}: estimate against peak`,
      `${mebibytes(estimated)} against ${mebibytes(peak)}: ${round(100 * difference)} %`,
      `within ${100 * DIFFERENCE_MAX} %`,
      Math.abs(difference) <= DIFFERENCE_MAX,
    );
    return Math.abs(difference);
  });
  report.keys.memory_estimate_worst_difference = round(Math.max(...differences));
  await checkScarcity(device, report);
}

/** Bytes foreseen and the peak of two steps in a fresh process. */
export function measure(kind: Device['kind'], setting: Setting): { estimated: number; peak: number } {
  const script = path.join(import.meta.dirname, 'memory-child.ts');
  const { shape, r, sequences, length, recompute } = setting;
  const args = [kind, shape, r, sequences, length, recompute].map(String);
  const run = spawnSync(process.execPath, [...process.execArgv, script, ...args], {
    encoding: 'utf8',
    timeout: CHILD_SECONDS * 1000,
  });
  if (run.status === 0) return JSON.parse(run.stdout.trim().split('\n').at(-1)!);
  const reason = run.error?.message ?? run.stderr.trim().split('\n').slice(-3).join(' ');
  throw new Error(`${shape}, ${sequences} × ${length} tokens: ${reason}`);
}

/** The job fails with what it needed and what there was; this process and its device go on, and so does the next job. */
async function checkScarcity(device: Device, report: Context['report']): Promise<void> {
  const scratch = mkdtempSync(path.join(tmpdir(), 'lathe-scarce-'));
  let failure: unknown = null;
  try {
    await trainOnce({ kind: device.kind, memoryLimitBytes: SCARCE_BYTES }, scratch);
  } catch (error) {
    failure = error;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  const isJobs = failure instanceof JobFailed && failure.error.code === 'out_of_memory';
  const message = failure instanceof Error ? failure.message : 'it fitted';
  const hasNumbers = isJobs && /\d+ MiB/.test(message);
  report.keys.out_of_memory_fails_the_job = isJobs && hasNumbers;
  report.judge(
    `a training in ${mebibytes(SCARCE_BYTES)}`,
    message.split(/ (?=Lower )|\n/)[0]!,
    'its own failure, with the numbers',
    isJobs && hasNumbers && device.memory().inUse >= 0,
  );
}

const mebibytes = (bytes: number): string => `${Math.round(bytes / 2 ** 20)} MiB`;
