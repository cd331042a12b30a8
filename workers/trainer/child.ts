/**
 * The training process of one attempt: reads the data, opens the device, runs the loop, writes checkpoint folders. It
 * knows no database and no storage; it obeys its supervisor over the process channel and leaves when that is gone.
 */
import path from 'node:path';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { type Device, isDeviceLost, openDevice } from '../engine/device.ts';
import { commitFolder } from './checkpoint.ts';
import { type JobData, readJobData } from './dataset.ts';
import { Failpoints } from './failpoints.ts';
import { failureOf } from './failures.ts';
import { planMemory, recordedMicroBatches } from './memory-plan.ts';
import { EXIT, type FromChild, type ToChild, type TrainRequest } from './messages.ts';
import { prepareObjective } from './objective.ts';
import { train } from './train.ts';
import { openTraining, type Training, writeTraining } from './training-state.ts';

/** Checkpoints waiting for their upload; the loop pauses rather than fill the disk, unless it is to leave. */
const SPOOL_MAX = 2;
/** A crash costs at most about this much training, whatever save_steps says. */
const SAVE_SECONDS = { adapter: 60, full: 300 };
const ALIVE_MS = 1000;
const DISK_FULL = ['ENOSPC', 'EDQUOT'];
/** How often room for the last checkpoint is looked for. */
const ROOM_MS = 2000;

/** The child's end of the channel, and what the supervisor asked for. */
const channel = {
  requests: new Map<string, ToChild>(),
  onRequest: () => {},
  stopRequested: false,
  pauseRequested: false,
  unstored: new Set<number>(),
  lastSentAt: 0,
  sent: Promise.resolve(),
};
let isTraining = false;
let memoryBytes: number | null = null;

function tell(message: FromChild): void {
  channel.lastSentAt = performance.now();
  channel.sent = new Promise((resolve) => process.send!(message, () => resolve()));
}

async function request<T extends ToChild['type']>(type: T): Promise<Extract<ToChild, { type: T }>> {
  while (!channel.requests.has(type)) await new Promise<void>((resolve) => (channel.onRequest = resolve));
  return channel.requests.get(type) as Extract<ToChild, { type: T }>;
}

const stopCode = () => (channel.pauseRequested ? EXIT.paused : EXIT.handedOver);

/** Ends the process once the supervisor has every message. */
async function leave(code: number): Promise<never> {
  await channel.sent;
  process.exit(code);
}

process.on('message', (message: ToChild) => {
  if (message.type === 'checkpoint_stored') channel.unstored.delete(message.step);
  else if (message.type === 'stop' || message.type === 'pause') {
    channel.stopRequested = true;
    channel.pauseRequested ||= message.type === 'pause';
    if (!isTraining) void leave(stopCode());
  } else channel.requests.set(message.type, message);
  channel.onRequest();
});
// Without its supervisor an attempt must not go on: nobody renews its lease.
process.on('disconnect', () => process.exit(EXIT.orphaned));
// A Ctrl-C reaches the whole process group; when to stop is the supervisor's decision.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {});

/** Shows life between two pieces of work that block; costs nothing when called often. */
function alive(): void {
  if (performance.now() - channel.lastSentAt > ALIVE_MS) tell({ type: 'alive' });
}

/** Lets messages in and out, and shows life during long work. @returns whether to stop at the next step boundary */
async function turn(): Promise<boolean> {
  alive();
  await nextTurn();
  return channel.stopRequested;
}

/** Runs `work` while showing life; for work that itself comes back to the event loop now and then. */
async function showingLife<T>(work: Promise<T>): Promise<T> {
  const timer = setInterval(() => tell({ type: 'alive' }), ALIVE_MS);
  return work.finally(() => clearInterval(timer));
}

function open(job: TrainRequest): { device: Device; training: Training } {
  let device: Device;
  try {
    device = openDevice(job.device);
  } catch (error) {
    throw new Error(`the device cannot be opened: ${(error as Error).message}`, { cause: DEVICE });
  }
  return { device, training: openTraining(job, device) };
}
const DEVICE = Symbol('device');

/** Saves the training as it stands, and tells when nothing was saved for too long. */
function checkpointSaver(job: TrainRequest, training: Training, failpoints: Failpoints) {
  let savedAt = performance.now();
  let isDiskFull = false;
  const { state } = training;
  const { totalSteps } = job.plan;
  const isFull = job.adapter.peft_type === 'FULL';
  const saveMs = 1000 * (isFull ? SAVE_SECONDS.full : SAVE_SECONDS.adapter);
  const save = async (kind: 'epoch' | 'state', metrics: Record<string, number>) => {
    while (channel.unstored.size >= SPOOL_MAX && !channel.stopRequested)
      await showingLife(new Promise<void>((resolve) => (channel.onRequest = resolve)));
    const { step } = state;
    const dir = path.join(job.checkpointsDir, `ckpt-${step}`);
    if (channel.pauseRequested) failpoints.hit('pause.before_save');
    const write = (temporary: string) => writeTraining(temporary, job, training, turn);
    for (;;) {
      try {
        await showingLife(commitFolder(dir, step, write, failpoints));
        break;
      } catch (error) {
        if (!DISK_FULL.includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
      }
      // The earlier checkpoint still stands; only the last one cannot be done without.
      const isLast = step === totalSteps;
      const then = isLast
        ? 'the last checkpoint waits for room'
        : `the checkpoint of step ${step} was skipped`;
      if (!isDiskFull) tell({ type: 'warning', message: `The worker's disk is full: ${then}` });
      isDiskFull = true;
      savedAt = performance.now();
      if (!isLast) return;
      await showingLife(sleep(ROOM_MS));
      if (channel.stopRequested) await leave(stopCode());
    }
    isDiskFull = false;
    if (channel.pauseRequested) failpoints.hit('pause.after_save');
    channel.unstored.add(step);
    savedAt = performance.now();
    tell({ type: 'checkpoint', dir, step, kind, isLast: step === totalSteps, metrics });
  };
  return { save, isSaveDue: () => performance.now() - savedAt > saveMs };
}

async function runTraining(job: TrainRequest, data: JobData, failpoints: Failpoints): Promise<number> {
  const { device, training } = open(job);
  const { model, state } = training;
  // A single example may be longer than a pack: two answers are one example.
  const largestPack = Math.max(
    job.plan.maxTokensPerPack,
    data.training.longest,
    data.validation?.longest ?? 0,
  );
  const memory = planMemory(job.plan.method, model, largestPack);
  const { recompute } = memory;
  memoryBytes = memory.bytes;
  device.reserve(Math.min(memory.bytes, memory.most));
  const counts = model.counts();
  const { totalSteps } = job.plan;
  tell({
    type: 'started',
    step: state.step,
    totalSteps,
    device: device.name,
    trainableParameters: counts.trainable,
    totalParameters: counts.total,
    estimatedBytes: memoryBytes,
    recompute,
  });

  const { save, isSaveDue } = checkpointSaver(job, training, failpoints);
  const preparation = { turn, isSaveDue, save };
  const recorded = recordedMicroBatches(model, memory);
  const objective = await prepareObjective(job, data, training, preparation, recorded);
  if (objective === null) return stopCode();
  const end = await train({
    ...training,
    ...{ data, objective, plan: job.plan, recompute, failpoints, save, isSaveDue, turn, alive },
    isPausing: () => channel.pauseRequested,
    report: (done) => tell({ type: 'step', totalSteps, ...done }),
  });
  if (end === 'stopped') return stopCode();
  tell({ type: 'finished', step: state.step, trainedTokens: state.trainedTokens });
  return EXIT.done;
}

async function main(): Promise<number> {
  const prepare = await request('prepare');
  const failpoints = new Failpoints(prepare.failpoints, 0);
  const { data, prepared } = await showingLife(readJobData(prepare));
  failpoints.hit('child.prepared');
  tell(prepared);
  const job = await request('train');
  isTraining = true;
  return runTraining(job, data, failpoints);
}

async function report(error: unknown): Promise<number> {
  const failure = failureOf(error, memoryBytes);
  if (failure) {
    tell({ type: 'failed', error: failure.error, details: [...failure.details] });
    return EXIT.userError;
  }
  console.error(error);
  const isDevice = isDeviceLost(error) || (error instanceof Error && error.cause === DEVICE);
  return isDevice ? EXIT.deviceError : EXIT.crashed;
}

if (!process.send)
  throw new Error('child.ts is started by the trainer, which talks to it over a process channel');
main().catch(report).then(leave);
