/** Cancel, drain, crash, hang and zombies: how an attempt ends before its time, with real processes. */
import { describe, expect, it, vi } from 'vitest';
import { requestCancel } from '../../src/domain/jobs/states.ts';
import { type JobRequest, type JobView, useTestService } from './service.ts';
import { chatLines } from './training-lines.ts';

// Generous: every attempt starts a process, and the machine may be busy.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

const service = useTestService();

/** An epoch is 25 steps. */
const LONG: JobRequest = {
  training: chatLines(50),
  hyperparameters: { n_epochs: 50, batch_size: 2 },
  trainer: { max_steps: 100_000, save_steps: 1000, logging_steps: 10, max_length: 64 },
};
const messages = (view: JobView) => view.events.map((event) => event.message);
const stepOf = (view: Pick<JobView, 'row'>) => view.row.progress?.step ?? -1;

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

describe('cancel', () => {
  it('ends a running job within two seconds and keeps its announced checkpoints', async () => {
    const id = await service.createJob(LONG);
    const leave = new AbortController();
    const running = service.runQueue({ once: false, drain: leave.signal });
    await service.waitForView(id, (view) => view.checkpoints.some((c) => c.kind === 'epoch'));
    const pid = service.log.findLast((line) => line.msg === 'child started')!.child_pid as number;
    expect(isAlive(pid)).toBe(true);

    const askedAt = performance.now();
    expect(await requestCancel(service.database, service.projectId, id)).toEqual({
      outcome: 'requested',
      status: 'running',
    });
    const view = await service.waitFor(id, ({ row }) => row.status === 'cancelled');
    expect(performance.now() - askedAt).toBeLessThan(2000);
    expect(isAlive(pid)).toBe(false);
    leave.abort();
    await running;

    expect(view.row).toMatchObject({
      workerId: null,
      leaseUntil: null,
      fineTunedModel: null,
      resultFiles: [],
      error: null,
    });
    expect(messages(view).at(-1)).toBe('The job was cancelled');
    const announced = view.checkpoints.filter((c) => c.kind === 'epoch' && c.deletedAt === null);
    expect(announced.length).toBeGreaterThan(0);
    expect(view.models.map((m) => m.id).sort()).toEqual(announced.map((c) => c.modelName!).sort());
    for (const model of view.models)
      expect(await service.storage.head(`${model.storagePrefix}/adapter_model.safetensors`)).not.toBeNull();
  });

  it('ends a job whose child is stuck before its first step', async () => {
    const id = await service.createJob(LONG);
    const leave = new AbortController();
    const running = service.runQueue({
      once: false,
      drain: leave.signal,
      failpoints: ['child.prepared=hang'],
    });
    await service.waitFor(id, () =>
      service.log.some((line) => line.msg === 'child started' && line.job_id === id),
    );
    await requestCancel(service.database, service.projectId, id);
    const view = await service.waitFor(id, ({ row }) => row.status === 'cancelled');
    leave.abort();
    await running;
    expect(view.row).toMatchObject({ startedAt: null, attempts: 1 });
    expect(messages(view).at(-1)).toBe('The job was cancelled');
  });
});

describe('SIGTERM', () => {
  it('saves the state at the step it stands at, gives the job back at once, and the next worker ends it as one would have', async () => {
    const request: JobRequest = {
      ...LONG,
      trainer: { ...LONG.trainer, max_steps: 60, logging_steps: 1, learning_rate: 0.005 },
    };
    const alone = await service.createJob(request);
    await service.runQueue();
    const shared = await service.createJob(request);
    // The signal comes at step 30, where nothing would be saved otherwise, and more than once, as from the impatient.
    const points = [30, 31, 32].flatMap((step) => ['--failpoint', `supervisor.step.${step}@1=term`]);
    expect(await service.startTrainer(points).exited).toMatchObject({ code: 0, signal: null });

    const between = await service.view(shared);
    expect(between.row).toMatchObject({ status: 'running', workerId: null, leaseUntil: null, crashes: 0 });
    const saved = between.checkpoints.filter((c) => c.deletedAt === null).at(-1)!;
    expect(saved.step).toBe(stepOf(between));
    expect(saved.step).toBeGreaterThanOrEqual(30);
    expect(saved.step).toBeLessThan(60);

    await service.runQueue();
    const [expected, view] = [await service.view(alone), await service.view(shared)];
    expect(messages(view)).toContain(`Continuing from the checkpoint of step ${saved.step}`);
    expect(view.row).toMatchObject({ status: 'succeeded', attempts: 2, crashes: 0 });
    expect(view.models.at(-1)!.digest).toBe(expected.models.at(-1)!.digest);
    const steps = view.events
      .filter((event) => event.type === 'metrics')
      .map((event) => (event.data as { step: number }).step);
    expect(steps).toEqual(Array.from({ length: 60 }, (_, i) => i + 1));
    expect(view.events.filter((event) => event.level === 'warn')).toEqual([]);
  });

  it('an idle trainer leaves at once and signs off', async () => {
    const trainer = service.startTrainer();
    await trainer.logged('trainer ready');
    trainer.child.kill('SIGTERM');
    expect(await trainer.exited).toMatchObject({ code: 0, signal: null });
    const { rows } = await service.database.pool.query('select id from workers where pid = $1', [
      trainer.child.pid,
    ]);
    expect(rows).toEqual([]);
  });
});

describe('a job that crashes its worker', () => {
  it('fails when its budget is spent, with the reason, and other jobs run', async () => {
    const poison = await service.createJob(LONG);
    const other = await service.createJob({ ...LONG, trainer: { max_steps: 2 } });
    await service.runQueue({ config: { crashBudget: 3 }, failpoints: ['child.step.3=segfault'] });
    const view = await service.view(poison);
    expect(view.row).toMatchObject({ status: 'failed', attempts: 3, workerId: null });
    expect(view.row.error).toMatchObject({ code: 'worker_crashed', param: null });
    expect(view.row.error!.message).toMatch(
      /^The worker crashed 3 times without a new checkpoint\. Last reason: signal SIGSEGV/,
    );
    expect((await service.view(other)).row.status).toBe('succeeded');
  });

  it('an exception in the child is told with its last line', async () => {
    const id = await service.createJob(LONG);
    await service.runQueue({ config: { crashBudget: 1 }, failpoints: ['child.step.2=throw'] });
    expect((await service.view(id)).row.error).toEqual({
      code: 'worker_crashed',
      message:
        'The worker crashed once without a new checkpoint. Last reason: exit code 1: Error: failpoint child.step.2',
      param: null,
    });
  });

  it('a child that hangs is killed by the watchdog and the job goes on', async () => {
    const id = await service.createJob({ ...LONG, trainer: { max_steps: 6, save_steps: 2 } });
    await service.runQueue({ config: { stallSeconds: 2 }, failpoints: ['child.step.5@1=hang'] });
    const view = await service.view(id);
    expect(view.row).toMatchObject({ status: 'succeeded', attempts: 2 });
    expect(messages(view).find((text) => text.includes('interrupted'))).toMatch(
      /stalled: no sign of progress for \d+ seconds/,
    );
    expect(messages(view)).toContain('Continuing from the checkpoint of step 4');
  });
});

describe('a supervisor that is gone', () => {
  it('takes its child along', async () => {
    const id = await service.createJob(LONG);
    const trainer = service.startTrainer();
    const pid = (await trainer.logged('child started')).child_pid as number;
    await service.waitFor(id, (view) => stepOf(view) >= 1);
    trainer.child.kill('SIGKILL');
    await vi.waitFor(() => expect(isAlive(pid)).toBe(false), { timeout: 20_000 });
    await requestCancel(service.database, service.projectId, id);
    await service.waitFor(id, ({ row }) => row.cancelRequestedAt !== null);
  });

  it('and comes back as a zombie changes nothing', async () => {
    const id = await service.createJob({
      ...LONG,
      trainer: { ...LONG.trainer, max_steps: 20, save_steps: 5 },
    });
    // Frozen after step 11, it does not renew its lease; its child trains on, unheard. Another worker ends the job.
    // The child rests and all it made is stored before that: a supervisor frozen inside a transaction would hold a row's
    // lock until Postgres ends it after 30 s.
    const zombie = service.startTrainer(['--failpoint', 'child.step.12@1=stop']);
    await service.waitForView(
      id,
      ({ row, checkpoints }) => row.progress?.step === 11 && checkpoints.some(({ step }) => step === 10),
    );
    zombie.child.kill('SIGSTOP');
    process.kill((await zombie.logged('child started')).child_pid as number, 'SIGCONT');
    await service.runQueue({ once: false, drain: await whenDone(id) });
    const after = await service.view(id);
    expect(after.row).toMatchObject({ status: 'succeeded' });
    expect(after.row.epoch).toBeGreaterThan(1);
    zombie.child.kill('SIGCONT');
    // It finds its lease lost, kills its child and looks for other work.
    expect(await zombie.logged('attempt ended')).toMatchObject({ outcome: 'lost' });
    zombie.child.kill('SIGTERM');
    expect(await zombie.exited).toMatchObject({ code: 0 });
    expect(await service.view(id)).toEqual(after);
  });
});

/** A signal that aborts when the job has ended. */
async function whenDone(id: string): Promise<AbortSignal> {
  const done = new AbortController();
  const look = setInterval(async () => {
    if ((await service.view(id)).row.finishedAt === null) return;
    clearInterval(look);
    done.abort();
  }, 50);
  return done.signal;
}
