import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'drizzle-orm';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { Database } from '../../src/db/client.ts';
import type { Fence, LeaseLost } from '../../src/queue/queue.ts';
import { holdLease, type Lease } from '../../workers/trainer/lease.ts';
import { useDatabase } from '../helpers/database.ts';
import { createJob, createTenant, heldBy, jobRow } from '../queue/fixture.ts';

const holder = useDatabase();
const log = pino({ level: 'silent' });
const TIMES = { leaseSeconds: 2.4, heartbeatSeconds: 0.1 };
let tenant: Awaited<ReturnType<typeof createTenant>>;
const leases: Lease[] = [];
beforeAll(async () => {
  tenant = await createTenant(holder.database);
});
afterAll(() => {
  for (const lease of leases) lease.stop();
});

async function held(): Promise<Fence> {
  const jobId = await createJob(holder.database, tenant, {
    status: 'running',
    ...heldBy('w', 1, TIMES.leaseSeconds),
  });
  return { jobId, epoch: 1, workerId: 'w' };
}
const hold = (database: Database, fence: Fence) => {
  // Not vi.fn(): the runner clears those of all tests whenever one begins.
  const told = { lost: [] as LeaseLost[], cancels: 0, pauses: 0 };
  const events = {
    onLost: (reason: LeaseLost) => void told.lost.push(reason),
    onCancel: () => void told.cancels++,
    onPause: () => void told.pauses++,
  };
  leases.push(holdLease(database, fence, performance.now(), TIMES, log, events));
  return told;
};

// All at once: each waits for a lease of its own, and none needs the processor for it.
describe.concurrent('a lease', () => {
  it('keeps the job for many lease lengths', async () => {
    const fence = await held();
    const told = hold(holder.database, fence);
    await sleep(1.5 * 1000 * TIMES.leaseSeconds);
    expect(told.lost).toEqual([]);
    expect((await jobRow(holder.database, fence.jobId)).leaseUntil!.getTime()).toBeGreaterThan(Date.now());
  });

  it('tells of a cancel once and keeps renewing', async () => {
    const fence = await held();
    const told = hold(holder.database, fence);
    await holder.database.db.execute(
      sql`update fine_tuning_jobs set cancel_requested_at = now() where id = ${fence.jobId}`,
    );
    await vi.waitFor(() => expect(told.cancels).toBe(1), 1000);
    await sleep(1000 * TIMES.leaseSeconds * 1.5);
    expect(told.cancels).toBe(1);
    expect(told.lost).toEqual([]);
    expect((await jobRow(holder.database, fence.jobId)).leaseUntil!.getTime()).toBeGreaterThan(Date.now());
  });

  it('notices that another worker has the job', async () => {
    const fence = await held();
    const told = hold(holder.database, fence);
    await holder.database.db.execute(
      sql`update fine_tuning_jobs set epoch = 2, worker_id = 'other' where id = ${fence.jobId}`,
    );
    await vi.waitFor(() => expect(told.lost).toHaveLength(1), 1000);
    expect(told.lost[0]).toMatchObject({ name: 'LeaseLost' });
  });

  it.each([
    ['never answers', () => new Promise<never>(() => {})],
    ['refuses', () => Promise.reject(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }))],
  ])('lets go before the lease ends when the database %s', async (_, execute) => {
    const fence = await held();
    const away = { leases: { execute } } as unknown as Database;
    const startedAt = performance.now();
    const told = hold(away, fence);
    await vi.waitFor(() => expect(told.lost).toHaveLength(1), { timeout: 5000, interval: 5 });
    const seconds = (performance.now() - startedAt) / 1000;
    expect(seconds).toBeGreaterThan(TIMES.leaseSeconds * 0.75);
    expect(seconds).toBeLessThan(TIMES.leaseSeconds);
  });

  it('a renewal that is answered late does not extend trust beyond what it was worth when sent', async () => {
    const fence = await held();
    const answeredAt: number[] = [];
    const slow = {
      leases: {
        execute: async () => {
          await sleep(1000 * TIMES.leaseSeconds * 0.6);
          answeredAt.push(performance.now());
          if (answeredAt.length === 1) return { rows: [{ cancel: false }] };
          return new Promise<never>(() => {});
        },
      },
    } as unknown as Database;
    const startedAt = performance.now();
    const told = hold(slow, fence);
    await vi.waitFor(() => expect(told.lost).toHaveLength(1), { timeout: 6000, interval: 5 });
    // Sent after one tick (0.1 s): trust ends 5/6 of a lease after that, not after the answer.
    const seconds = (performance.now() - startedAt) / 1000;
    expect(seconds).toBeGreaterThan(TIMES.leaseSeconds * 0.8);
    expect(seconds).toBeLessThan(0.1 + TIMES.leaseSeconds * 0.83 + 0.35);
  });
});
