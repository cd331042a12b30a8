/**
 * Several GPUs on one machine: which of them train, and one trainer process for each, which sees no other. A process that
 * dies is started again. Knows no queue and no job; opens no device.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** Number, UUID or MIG id, as CUDA_VISIBLE_DEVICES takes them. */
const DEVICE_NAME = /^(\d{1,3}|(GPU|MIG)-[0-9A-Za-z/-]{1,80})$/;
const DRIVER_FOLDER = '/proc/driver/nvidia/gpus';
const PAUSES_MS = [1_000, 5_000, 30_000];
const HEALTHY_MS = 60_000;

/**
 * The devices of `setting`: null is none in particular; `auto` all that the driver lists, or those of `visible` (the
 * value of CUDA_VISIBLE_DEVICES) where that is set; else a list.
 * @throws Error naming the entry that is no device, or that stands twice
 */
export function deviceList(
  setting: string | null,
  visible: string | undefined,
  folder = DRIVER_FOLDER,
): string[] {
  if (setting === null) return [];
  const list = setting === 'auto' ? (visible?.split(',') ?? driverDevices(folder)) : setting.split(',');
  const names = list.map((name) => name.trim()).filter((name) => name !== '');
  for (const [i, name] of names.entries()) {
    if (!DEVICE_NAME.test(name)) throw new Error(`devices: '${name}' is not the number or the id of a GPU`);
    if (names.indexOf(name) !== i) throw new Error(`devices: '${name}' is named twice`);
  }
  if (setting !== 'auto' && names.length === 0) throw new Error('devices: the list is empty');
  return names;
}

function driverDevices(folder: string): string[] {
  try {
    return readdirSync(folder).map((_, index) => String(index));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []; // no driver: the CPU trains
    throw error;
  }
}

export interface DeviceProcesses {
  /** Program and arguments, `--device <name>` comes behind them. */
  program: string;
  arguments: readonly string[];
  env: Readonly<Record<string, string>>;
  /** Aborted: every process is told to leave. */
  drain: AbortSignal;
  onDeath: (device: string, how: string, pauseMs: number) => void;
}

/** One process per device until `drain`, or until each has ended by itself with code 0. */
export async function runPerDevice(devices: readonly string[], options: DeviceProcesses): Promise<void> {
  await Promise.all(devices.map((device) => keepRunning(device, options)));
}

async function keepRunning(device: string, options: DeviceProcesses): Promise<void> {
  const { drain } = options;
  for (let deaths = 0; !drain.aborted; ) {
    const startedAt = performance.now();
    const env = { ...options.env, CUDA_VISIBLE_DEVICES: device };
    const child = fork(options.program, [...options.arguments, '--device', device], {
      env,
      stdio: 'inherit',
    });
    const how = await endOf(child, drain);
    if (how === null || drain.aborted) return;
    if (performance.now() - startedAt > HEALTHY_MS) deaths = 0;
    const pauseMs = PAUSES_MS[Math.min(deaths++, PAUSES_MS.length - 1)]!;
    options.onDeath(device, how, pauseMs);
    await sleep(pauseMs, undefined, { signal: drain }).catch(() => {}); // woken: the loop ends
  }
}

/** How the process ended; null with code 0. */
function endOf(child: ChildProcess, drain: AbortSignal): Promise<string | null> {
  const leave = () => child.kill('SIGTERM');
  if (drain.aborted) leave();
  drain.addEventListener('abort', leave);
  return new Promise<string | null>((resolve) => {
    child.once('error', (error) => resolve(`did not start: ${error.message}`));
    child.once('exit', (code, signal) =>
      resolve(code === 0 ? null : signal ? `was killed by ${signal}` : `ended with code ${code}`),
    );
  }).finally(() => drain.removeEventListener('abort', leave));
}
