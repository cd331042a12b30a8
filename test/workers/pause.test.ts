/** Pause and resume with real processes: the job ends with the bytes of one that was never interrupted. */
import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { requestCancel, requestPause, requestResume } from '../../src/domain/jobs/states.ts';
import { type JobRequest, type JobView, useTestService } from './service.ts';
import { chatLines } from './training-lines.ts';

// Generous: every attempt starts a process, and the machine may be busy.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

/** Enough for a pause to come in the middle: a step takes milliseconds, and requests are looked for this often. */
const STEPS = 400;
const SOON = { heartbeatSeconds: 0.2 };
const REQUEST: JobRequest = {
  training: chatLines(50),
  adapter: { r: 4, lora_dropout: 0.1 },
  hyperparameters: { n_epochs: 50, batch_size: 2 },
  trainer: { max_steps: STEPS, save_steps: 70, max_length: 64, learning_rate: 0.005 },
};

const service = useTestService();
let whole: JobView;
beforeAll(async () => {
  whole = await service.run(REQUEST);
});

const messages = (view: JobView) => view.events.map((event) => event.message);
const stepsTold = (view: JobView) =>
  view.events.filter((e) => e.type === 'metrics').map((e) => (e.data as { step: number }).step);
const ask = (id: string) => requestPause(service.database, service.projectId, id);
const wake = (id: string) => requestResume(service.database, service.projectId, id);

/** Runs the queue until the job rests: it is asked to once a trainer holds it and it has done `step` steps. */
async function pauseAt(id: string, step: number, failpoints: string[] = []): Promise<JobView> {
  const leave = new AbortController();
  const running = service.runQueue({ once: false, drain: leave.signal, failpoints, config: SOON });
  try {
    // Held as well: a job that was resumed has its old progress while it waits.
    const isUnderWay = ({ row }: Pick<JobView, 'row'>) =>
      row.status === 'running' && row.workerId !== null && (row.progress?.step ?? -1) >= step;
    await service.waitFor(id, isUnderWay);
    expect(await ask(id)).toEqual({ outcome: 'requested' });
    return await service.waitFor(id, ({ row }) => row.status === 'paused');
  } finally {
    // A trainer that goes on would take the next test's job.
    leave.abort();
    await running;
  }
}

function expectWholeResult(view: JobView): void {
  expect(view.row).toMatchObject({
    status: 'succeeded',
    trainedTokens: whole.row.trainedTokens,
    error: null,
  });
  expect(view.models.at(-1)!.files).toEqual(whole.models.at(-1)!.files);
  expect(stepsTold(view)).toEqual(stepsTold(whole));
  expect(view.events.map((event) => event.seq)).toEqual(view.events.map((_, i) => i + 1));
}

const ENDLESS: JobRequest = {
  ...REQUEST,
  trainer: { ...REQUEST.trainer, max_steps: 40_000, logging_steps: 10 },
};

describe('pause', () => {
  it('saves a checkpoint that can be used, frees the worker, and ends as an uninterrupted job does', async () => {
    const endless = await service.createJob(ENDLESS);
    const rested = await pauseAt(endless, 2);
    const checkpoint = rested.checkpoints.findLast((c) => c.deletedAt === null)!;
    expect(checkpoint).toMatchObject({ kind: 'epoch', step: rested.row.progress!.step });
    expect(checkpoint.modelName).toMatch(new RegExp(`^ft:.*:ckpt-step-${checkpoint.step}$`));
    expect(rested.models.map((m) => m.id)).toContain(checkpoint.modelName);
    expect(rested.row).toMatchObject({
      ...{ workerId: null, leaseUntil: null, pauseRequestedAt: null, estimatedFinish: null },
      ...{ finishedAt: null, crashes: 0 },
    });
    expect(messages(rested).slice(-2)).toEqual([
      `Checkpoint created at step ${checkpoint.step} with Snapshot ID: ${checkpoint.modelName}`,
      'Fine-tuning job paused',
    ]);
    await service.runQueue(); // a paused job is not taken
    expect((await service.view(endless)).row.status).toBe('paused');
    expect(await wake(endless)).toEqual({ outcome: 'queued' });
    const woken = await pauseAt(endless, checkpoint.step + 1);
    expect(woken.row.progress!.step).toBeGreaterThan(checkpoint.step);
    expect(messages(woken)).toContain(`Continuing from the checkpoint of step ${checkpoint.step}`);
    expect(messages(woken)).toContain('Fine-tuning job continues');
    await requestCancel(service.database, service.projectId, endless);
  });

  it('and resume, twice: the result is the same', async () => {
    const id = await service.createJob(REQUEST);
    for (const step of [10, 120]) {
      await pauseAt(id, step);
      await wake(id);
    }
    await service.runQueue();
    const view = await service.view(id);
    expect(view.row.attempts).toBe(3);
    expectWholeResult(view);
  });

  it.each(['pause.before_save', 'pause.after_save'])(
    'kill -9 of the child at %s: it rests, and the result is the same',
    async (point) => {
      const id = await service.createJob(REQUEST);
      const rested = await pauseAt(id, 10, [`${point}@1=kill`]);
      expect(rested.row).toMatchObject({ workerId: null, pauseRequestedAt: null, attempts: 1 });
      expect(service.log.findLast((line) => line.msg === 'attempt failed')).toMatchObject({
        job_id: id,
        err: { message: 'signal SIGKILL' },
      });
      await wake(id);
      await service.runQueue();
      expectWholeResult(await service.view(id));
    },
  );

  it('kill -9 of the supervisor before it writes the pause: the next sweep lets the job rest, the resume is exact', async () => {
    const id = await service.createJob(REQUEST);
    const trainer = service.startTrainer(['--failpoint', 'pause.before_row@1=kill'], {
      LATHE_LEASE_SECONDS: '3',
    });
    await service.waitFor(id, ({ row }) => (row.progress?.step ?? -1) >= 10);
    expect(await ask(id)).toEqual({ outcome: 'requested' });
    expect(await trainer.exited).toMatchObject({ signal: 'SIGKILL' });
    const between = await service.view(id);
    expect(between.row.status).toBe('running');
    const saved = between.checkpoints.findLast((c) => c.deletedAt === null)!;
    const leave = new AbortController();
    const running = service.runQueue({ once: false, drain: leave.signal, config: SOON });
    const rested = await service.waitFor(id, ({ row }) => row.status === 'paused');
    expect(rested.row).toMatchObject({ crashes: 0, workerId: null });
    await wake(id);
    await service.waitFor(id, ({ row }) => row.status === 'succeeded');
    leave.abort();
    await running;
    const view = await service.view(id);
    expectWholeResult(view);
    expect(messages(view)).toContain(`Continuing from the checkpoint of step ${saved.step}`);
  });

  it('before the data is read: it rests at once, and is validated after the resume', async () => {
    const id = await service.createJob({ ...REQUEST, trainer: { ...REQUEST.trainer, max_steps: 2 } });
    expect(await ask(id)).toEqual({ outcome: 'paused' });
    await service.runQueue();
    expect((await service.view(id)).row).toMatchObject({ status: 'paused', attempts: 0 });
    await wake(id);
    await service.runQueue();
    const { row } = await service.view(id);
    expect(row).toMatchObject({ status: 'succeeded', trainer: { max_grad_norm: 1 } }); // what is in force is shown
  });

  it('of a child that is stuck ends the attempt after the drain time', async () => {
    const id = await service.createJob(REQUEST);
    const leave = new AbortController();
    const running = service.runQueue({
      once: false,
      drain: leave.signal,
      config: { ...SOON, drainSeconds: 1 },
      failpoints: ['child.step.3=hang'],
    });
    await service.waitFor(id, ({ row }) => row.progress?.step === 2);
    await ask(id);
    await service.waitFor(id, ({ row }) => row.status === 'paused', 20_000);
    leave.abort();
    await running;
    await wake(id);
    await service.runQueue();
    expectWholeResult(await service.view(id));
  });

  it('and cancel together: it is cancelled', async () => {
    const id = await service.createJob(ENDLESS);
    const leave = new AbortController();
    const running = service.runQueue({ once: false, drain: leave.signal, config: SOON });
    await service.waitFor(id, ({ row }) => (row.progress?.step ?? 0) >= 1);
    await Promise.all([ask(id), requestCancel(service.database, service.projectId, id)]);
    await service.waitFor(id, ({ row }) => row.status === 'cancelled');
    leave.abort();
    await running;
  });

  it('and a cancel that comes while the checkpoint is saved: it is cancelled, and the worker goes on', async () => {
    const id = await service.createJob(ENDLESS);
    // Frozen where it would write the pause, until the cancel is there.
    const trainer = service.startTrainer(['--failpoint', 'pause.before_row@1=stop'], {
      LATHE_LEASE_SECONDS: '30',
    });
    await service.waitFor(id, ({ row }) => (row.progress?.step ?? 0) >= 1);
    await ask(id);
    const isFrozen = () => / T /.test(readFileSync(`/proc/${trainer.child.pid}/stat`, 'utf8'));
    await vi.waitFor(() => expect(isFrozen()).toBe(true), { timeout: 30_000 });
    expect(await requestCancel(service.database, service.projectId, id)).toMatchObject({
      outcome: 'requested',
    });
    trainer.child.kill('SIGCONT');
    await service.waitFor(id, ({ row }) => row.status === 'cancelled');
    expect(await trainer.logged('attempt ended')).toMatchObject({ outcome: 'cancelled' });
    const next = await service.createJob({ ...REQUEST, trainer: { ...REQUEST.trainer, max_steps: 2 } });
    await service.waitFor(next, ({ row }) => row.status === 'succeeded');
    trainer.child.kill('SIGTERM');
    expect(await trainer.exited).toMatchObject({ code: 0 });
  });
});
