/** Object storage goes away while a job runs: an attempt that has to end does not wait for it forever. */
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { requestCancel } from '../../src/domain/jobs/states.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { useDatabase } from '../helpers/database.ts';
import { chatLines, type JobRequest, TestService } from './service.ts';

// Generous: every attempt starts a process, and the machine may be busy.
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

const holder = useDatabase();
let service: TestService;
let away: { put?: boolean; get?: boolean } = {};
const refused = () => Promise.reject(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }));
beforeAll(async () => {
  service = await TestService.open(holder.database);
  const storage: Storage = service.storage;
  const [put, get] = [storage.put.bind(storage), storage.get.bind(storage)];
  storage.put = (...args) => (away.put ? refused() : put(...args));
  storage.get = (...args) => (away.get ? refused() : get(...args));
});
afterAll(() => service?.close());

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
  await requestCancel(holder.database, service.projectId, id);
  await service.waitFor(id, ({ row }) => row.status === 'cancelled');
  expect(performance.now() - askedAt).toBeLessThan(5000);
  away = {};
  leave.abort();
  await running;
});
