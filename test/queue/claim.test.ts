import { sql } from 'drizzle-orm';
import { beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openDatabase } from '../../src/db/client.ts';
import { jobs } from '../../src/db/schema-jobs.ts';
import { claim, crash, type Fence, hasWork, heartbeat, reap, release } from '../../src/queue/queue.ts';
import { useDatabase } from '../helpers/database.ts';
import { BASE_MODEL, createJob, createTenant, eventsOf, heldBy, jobRow, POLICY } from './fixture.ts';

const holder = useDatabase();
let tenant: Awaited<ReturnType<typeof createTenant>>;
const refuse = (error: unknown) => {
  throw error;
};
beforeAll(async () => {
  tenant = await createTenant(holder.database);
});
beforeEach(async () => {
  await holder.database.db.execute(sql`truncate fine_tuning_jobs cascade`);
});

const take = (workerId = 'w') => claim(holder.database, workerId, [BASE_MODEL], 30);

describe('claim', () => {
  it('eight claimers on their own connections take 200 jobs, each exactly once', async () => {
    const ids = new Set<string>();
    for (let i = 0; i < 200; i += 1) ids.add(await createJob(holder.database, tenant));
    const claimers = Array.from({ length: 8 }, () => openDatabase(holder.database.url));
    const taken = await Promise.all(
      claimers.map(async (database, n) => {
        const mine: Fence[] = [];
        for (
          let fence = await claim(database, `w${n}`, [BASE_MODEL], 30);
          fence;
          fence = await claim(database, `w${n}`, [BASE_MODEL], 30)
        ) {
          mine.push(fence);
        }
        return mine;
      }),
    );
    await Promise.all(claimers.map((database) => database.close()));
    const all = taken.flat();
    expect(all).toHaveLength(200);
    expect(new Set(all.map((fence) => fence.jobId))).toEqual(ids);
    expect(taken.filter((mine) => mine.length > 0).length).toBeGreaterThan(1);
    for (const row of await holder.database.db.select().from(jobs)) {
      expect(row).toMatchObject({
        epoch: 1,
        attempts: 1,
        workerId: all.find((f) => f.jobId === row.id)!.workerId,
      });
    }
  });

  it('takes the lowest priority number first, then the oldest', async () => {
    const later = await createJob(holder.database, tenant, { createdAt: new Date(2000) });
    const older = await createJob(holder.database, tenant, { createdAt: new Date(1000) });
    const urgent = await createJob(holder.database, tenant, { priority: -1, createdAt: new Date(3000) });
    expect([await take(), await take(), await take(), await take()].map((f) => f?.jobId)).toEqual([
      urgent,
      older,
      later,
      undefined,
    ]);
  });

  it.each([
    ['ended', { status: 'cancelled' }],
    ['paused', { status: 'paused' }],
    ['held', { status: 'running', ...heldBy('other') }],
    ['held by a worker that is gone, before it was reaped', { status: 'running', ...heldBy('other', 1, -1) }],
    ['of another base model', { model: 'large' }],
    ['waiting after a crash', { runAfter: new Date(Date.now() + 60_000) }],
    ['to be cancelled', { cancelRequestedAt: new Date() }],
  ] as const)('passes over a job that is %s', async (_, values) => {
    await createJob(holder.database, tenant, values);
    expect(await take()).toBeNull();
  });

  it('says whether work is left, also work that waits', async () => {
    expect(await hasWork(holder.database, [BASE_MODEL])).toBe(false);
    await createJob(holder.database, tenant, { runAfter: new Date(Date.now() + 60_000) });
    expect(await hasWork(holder.database, [BASE_MODEL])).toBe(true);
    expect(await hasWork(holder.database, ['large'])).toBe(false);
  });
});

describe('lease', () => {
  it('a heartbeat extends it from now and reports a cancel', async () => {
    const id = await createJob(holder.database, tenant);
    const fence = (await claim(holder.database, 'w', [BASE_MODEL], 1))!;
    expect(await heartbeat(holder.database, fence, 30)).toEqual({
      cancelRequested: false,
      pauseRequested: false,
    });
    const left = (await jobRow(holder.database, id)).leaseUntil!.getTime() - Date.now();
    expect(left).toBeGreaterThan(28_000);
    expect(left).toBeLessThan(31_000);
    await holder.database.db
      .update(jobs)
      .set({ cancelRequestedAt: new Date(), pauseRequestedAt: new Date() });
    expect(await heartbeat(holder.database, fence, 30)).toEqual({
      cancelRequested: true,
      pauseRequested: true,
    });
  });

  it('reap leaves live leases and takes expired ones back, keeping the state', async () => {
    const alive = await createJob(holder.database, tenant, { status: 'running', ...heldBy('a') });
    const gone = await createJob(holder.database, tenant, { status: 'running', ...heldBy('b', 4, -1) });
    expect((await reap(holder.database, POLICY, refuse)).map((f) => f.jobId)).toEqual([gone]);
    expect(await jobRow(holder.database, alive)).toMatchObject({ workerId: 'a', crashes: 0 });
    expect(await jobRow(holder.database, gone)).toMatchObject({
      status: 'running',
      workerId: null,
      leaseUntil: null,
      crashes: 1,
      epoch: 4,
    });
    expect(await take()).toEqual({ jobId: gone, epoch: 5, workerId: 'w' });
  });

  it('two reapers at once count one crash', async () => {
    const gone = await createJob(holder.database, tenant, { status: 'running', ...heldBy('b', 1, -1) });
    const taken = await Promise.all(Array.from({ length: 4 }, () => reap(holder.database, POLICY, refuse)));
    expect(taken.flat()).toHaveLength(1);
    expect((await jobRow(holder.database, gone)).crashes).toBe(1);
  });

  it('a heartbeat that arrives during the reap wins or loses as a whole', async () => {
    for (let round = 0; round < 20; round += 1) {
      const id = await createJob(holder.database, tenant, { status: 'running', ...heldBy('b', 1, -0.001) });
      const fence = { jobId: id, epoch: 1, workerId: 'b' };
      const [beat, taken] = await Promise.allSettled([
        heartbeat(holder.database, fence, 30),
        reap(holder.database, POLICY, refuse),
      ]);
      const row = await jobRow(holder.database, id);
      if (beat.status === 'fulfilled') expect(row).toMatchObject({ workerId: 'b', crashes: 0 });
      else {
        expect(beat.reason).toMatchObject({ name: 'LeaseLost' });
        expect(row).toMatchObject({ workerId: null, crashes: 1 });
      }
      expect(taken.status).toBe('fulfilled');
    }
  });

  it('one row that cannot be reaped does not hide the others', async () => {
    const { db } = holder.database;
    const poison = await createJob(holder.database, tenant, { status: 'running', ...heldBy('a', 1, -20) });
    const gone = await createJob(holder.database, tenant, { status: 'running', ...heldBy('b', 1, -10) });
    await db.execute(
      sql.raw(`alter table fine_tuning_jobs add constraint poison check (id <> '${poison}' or crashes = 0)`),
    );
    const errors: string[] = [];
    const taken = await reap(holder.database, POLICY, (_, fence) => errors.push(fence.jobId));
    await db.execute(sql`alter table fine_tuning_jobs drop constraint poison`);
    expect(errors).toEqual([poison]);
    expect(taken.map((f) => f.jobId)).toEqual([gone]);
  });

  it('an expired job whose cancel was asked for is cancelled, not retried', async () => {
    const id = await createJob(holder.database, tenant, {
      status: 'running',
      ...heldBy('b', 1, -1),
      cancelRequestedAt: new Date(),
    });
    await reap(holder.database, POLICY, refuse);
    expect((await jobRow(holder.database, id)).status).toBe('cancelled');
    expect((await eventsOf(holder.database, id)).at(-1)!.message).toBe('The job was cancelled');
  });
});

describe('giving back', () => {
  it('a release is claimable at once and counts no crash', async () => {
    const id = await createJob(holder.database, tenant, { status: 'running', ...heldBy('w', 3) });
    await release(holder.database, { jobId: id, epoch: 3, workerId: 'w' });
    expect(await jobRow(holder.database, id)).toMatchObject({
      status: 'running',
      workerId: null,
      crashes: 0,
    });
    expect(await take('next')).toEqual({ jobId: id, epoch: 4, workerId: 'next' });
  });

  it('a release of a job to be cancelled cancels it', async () => {
    const id = await createJob(holder.database, tenant, {
      status: 'running',
      ...heldBy('w'),
      cancelRequestedAt: new Date(),
    });
    await release(holder.database, { jobId: id, epoch: 1, workerId: 'w' });
    expect((await jobRow(holder.database, id)).status).toBe('cancelled');
  });

  it('crashes wait longer each time, and the budget fails the job with the reason', async () => {
    const policy = { crashBudget: 3, crashBackoffSeconds: [10, 100] };
    const id = await createJob(holder.database, tenant, { status: 'running', ...heldBy('w', 1) });
    const waits: number[] = [];
    for (const outcome of ['retried', 'retried', 'failed']) {
      const { epoch } = await jobRow(holder.database, id);
      await holder.database.db.update(jobs).set(heldBy('w', epoch));
      expect(
        await crash(holder.database, { jobId: id, epoch, workerId: 'w' }, 'signal SIGSEGV', policy),
      ).toEqual({ outcome, retired: [] });
      waits.push(Math.round(((await jobRow(holder.database, id)).runAfter.getTime() - Date.now()) / 1000));
    }
    expect(waits.slice(0, 2)).toEqual([10, 100]);
    expect(await jobRow(holder.database, id)).toMatchObject({
      status: 'failed',
      error: {
        code: 'worker_crashed',
        message: 'The worker crashed 3 times without a new checkpoint. Last reason: signal SIGSEGV',
        param: null,
      },
    });
    expect((await eventsOf(holder.database, id)).map((e) => e.level)).toEqual([
      'info',
      'warn',
      'warn',
      'error',
    ]);
  });
});
