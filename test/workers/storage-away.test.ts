/**
 * Object storage goes away while a job runs, or has no room: the job waits for it and loses nothing, but an attempt that
 * has to end does not wait forever.
 */
import { renameSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, expect, it, vi } from 'vitest';
import { requestCancel } from '../../src/domain/jobs/states.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { type JobRequest, useTestService } from './service.ts';
import { chatLines } from './training-lines.ts';

// Generous: every attempt starts a process, and the machine may be busy.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

const service = useTestService();
let away: { put?: boolean; get?: boolean } = {};
const refused = () => Promise.reject(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }));
beforeAll(async () => {
  const storage: Storage = service.storage;
  const [put, get] = [storage.put.bind(storage), storage.get.bind(storage)];
  storage.put = (...args) => (away.put ? refused() : put(...args));
  storage.get = (...args) => (away.get ? refused() : get(...args));
});

const REQUEST: JobRequest = {
  training: chatLines(50),
  hyperparameters: { n_epochs: 50, batch_size: 2 },
  trainer: { max_steps: 30, save_steps: 10, logging_steps: 5, max_length: 64 },
};
const logged = (id: string, msg: string) =>
  vi.waitFor(() => expect(service.log.some((line) => line.msg === msg && line.job_id === id)).toBe(true), {
    timeout: 60_000,
  });

it('a worker that leaves before the data is there gives the job back at once', async () => {
  const id = await service.createJob(REQUEST);
  away = { get: true };
  const leave = new AbortController();
  const running = service.runQueue({ once: false, drain: leave.signal });
  await logged(id, 'trying again');
  const askedAt = performance.now();
  leave.abort();
  await running;
  expect(performance.now() - askedAt).toBeLessThan(5000);
  expect((await service.view(id)).row).toMatchObject({
    workerId: null,
    crashes: 0,
    status: 'validating_files',
  });
  away = {};
  await service.runQueue();
  expect((await service.view(id)).row).toMatchObject({ status: 'succeeded', attempts: 2 });
});

it('a worker that leaves waits for its uploads as long as it may, not longer', async () => {
  const id = await service.createJob(REQUEST);
  away = { put: true };
  const leave = new AbortController();
  const running = service.runQueue({ once: false, drain: leave.signal, config: { drainSeconds: 3 } });
  await logged(id, 'storage did not take a checkpoint; trying again');
  const askedAt = performance.now();
  leave.abort();
  await running;
  const seconds = (performance.now() - askedAt) / 1000;
  expect(seconds).toBeGreaterThan(2.5);
  expect(seconds).toBeLessThan(5.9); // less than twice: child and uploads share the time
  expect((await service.view(id)).row).toMatchObject({ workerId: null, crashes: 0, status: 'running' });
  away = {};
  await service.runQueue();
  expect((await service.view(id)).row).toMatchObject({ status: 'succeeded', attempts: 2 });
});

it('a cancel is obeyed while a crashed attempt still tries to keep its checkpoints', async () => {
  const id = await service.createJob(REQUEST);
  away = { put: true };
  const leave = new AbortController();
  const running = service.runQueue({
    once: false,
    drain: leave.signal,
    failpoints: ['child.step.15@1=segfault'],
    config: { drainSeconds: 60 },
  });
  await logged(id, 'storage did not take a checkpoint; trying again');
  // Nothing is logged between the death of the child and the end of the wait.
  const pid = service.log.findLast((line) => line.msg === 'child started')!.child_pid as number;
  await vi.waitFor(() => expect(() => process.kill(pid, 0)).toThrow('ESRCH'), { timeout: 60_000 });
  const askedAt = performance.now();
  await requestCancel(service.database, service.projectId, id);
  await service.waitFor(id, ({ row }) => row.status === 'cancelled');
  expect(performance.now() - askedAt).toBeLessThan(5000);
  away = {};
  leave.abort();
  await running;
});

it('a storage folder that is not there for a while (its disk is not mounted) costs neither attempt nor checkpoint', async () => {
  const [folder, aside] = [path.join(service.root, 'storage'), path.join(service.root, 'unmounted')];
  const id = await service.createJob(REQUEST);
  const first = new AbortController();
  // Puts fail from the second checkpoint on; told once the worker has tried for some time.
  service.log.length = 0;
  let running = service.runQueue({ once: false, drain: first.signal, failpoints: ['child.step.12@1=stop'] });
  await service.waitForView(id, (view) => view.checkpoints.length > 0);
  await vi.waitFor(() => expect(service.log.some((line) => line.msg === 'child started')).toBe(true));
  renameSync(folder, aside);
  const pid = service.log.find((line) => line.msg === 'child started')!.child_pid as number;
  await vi.waitFor(() => {
    process.kill(pid, 'SIGCONT');
    expect(service.log.some((line) => line.msg === 'storage did not take a checkpoint; trying again')).toBe(
      true,
    );
  }, 60_000);
  const told = await service.waitForView(id, ({ events }) => events.some(({ level }) => level === 'warn'));
  expect(told.events.findLast(({ level }) => level === 'warn')!.message).toMatch(
    /^The storage cannot be reached: the checkpoint of step \d+ waits, and training goes on$/,
  );
  first.abort();
  renameSync(aside, folder);
  await running;
  const handedOver = await service.view(id);
  expect(handedOver.row).toMatchObject({ crashes: 0, workerId: null, status: 'running' });

  // The next worker finds no folder when it looks for the checkpoints: they are not damaged, and it waits for them.
  renameSync(folder, aside);
  const second = new AbortController();
  service.log.length = 0;
  running = service.runQueue({ once: false, drain: second.signal });
  await logged(id, 'trying again');
  renameSync(aside, folder);
  const { row, events } = await service.waitFor(id, ({ row }) => row.finishedAt !== null);
  second.abort();
  await running;
  expect(row).toMatchObject({ status: 'succeeded', attempts: 2, crashes: 0 });
  expect(events.filter(({ message }) => message.includes('could not be read back'))).toEqual([]);
  expect(events.map(({ message }) => message)).toContainEqual(
    expect.stringMatching(/^Continuing from the checkpoint of step \d+$/),
  );
});

it('a full disk skips a checkpoint and goes on; only the last one waits for room', async () => {
  const id = await service.createJob(REQUEST);
  const failpoints = ['checkpoint.10.after_files=full', 'checkpoint.30.after_files=full'];
  await service.runQueue({ failpoints });
  const { row, events, checkpoints } = await service.view(id);
  expect(row).toMatchObject({ status: 'succeeded', attempts: 1, crashes: 0 });
  expect(events.filter(({ level }) => level === 'warn').map(({ message }) => message)).toEqual([
    "The worker's disk is full: the checkpoint of step 10 was skipped",
    "The worker's disk is full: the last checkpoint waits for room",
  ]);
  expect(checkpoints.map(({ step }) => step)).not.toContain(10);
});
