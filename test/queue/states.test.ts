import { sql } from 'drizzle-orm';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  isTerminal,
  JOB_STATUSES,
  type JobStatus,
  requestCancel,
  TRANSITIONS,
  transition,
} from '../../src/domain/jobs/states.ts';
import { claim, publish, recordCheckpoint } from '../../src/queue/queue.ts';
import { useDatabase } from '../helpers/database.ts';
import { createJob, createTenant, eventsOf, heldBy, jobRow, publicationOf } from './fixture.ts';

const holder = useDatabase();
let tenant: Awaited<ReturnType<typeof createTenant>>;
beforeAll(async () => {
  tenant = await createTenant(holder.database);
});

describe('transitions', () => {
  it('the table in SQL is the table in TypeScript, for every pair', async () => {
    for (const from of JOB_STATUSES) {
      for (const to of JOB_STATUSES) {
        const { rows } = await holder.database.db.execute(
          sql`select lathe_transition_allowed(${from}, ${to}) as allowed`,
        );
        expect([from, to, rows[0]!.allowed]).toEqual([from, to, TRANSITIONS[from].includes(to)]);
      }
    }
  });

  it.each(JOB_STATUSES.flatMap((from) => JOB_STATUSES.map((to) => [from, to] as [JobStatus, JobStatus])))(
    '%s → %s',
    async (from, to) => {
      const { db } = holder.database;
      const job = await createJob(holder.database, tenant, {
        status: from,
        finishedAt: isTerminal(from) ? new Date(0) : null,
      });
      const before = await jobRow(holder.database, job);
      expect(await transition(db, job, to, null)).toBe(TRANSITIONS[from].includes(to));
      const after = await jobRow(holder.database, job);
      if (!TRANSITIONS[from].includes(to)) return expect(after).toEqual(before);
      expect(after.status).toBe(to);
      expect(after.finishedAt !== null).toBe(isTerminal(to));
      expect(after.startedAt !== null).toBe(to === 'running');
    },
  );

  it('a plain update cannot bring an ended job back', async () => {
    const job = await createJob(holder.database, tenant, { status: 'cancelled' });
    const update = holder.database.db.execute(
      sql`update fine_tuning_jobs set status = 'running' where id = ${job}`,
    );
    await expect(update).rejects.toMatchObject({
      cause: expect.objectContaining({ message: `job ${job} cannot go from cancelled to running` }),
    });
    expect((await jobRow(holder.database, job)).status).toBe('cancelled');
  });

  it('only the current holder moves a held job', async () => {
    const { db } = holder.database;
    const job = await createJob(holder.database, tenant, { status: 'running', ...heldBy('w', 2) });
    expect(await transition(db, job, 'failed', { jobId: job, epoch: 1, workerId: 'w' })).toBe(false);
    expect(await transition(db, job, 'failed', { jobId: job, epoch: 2, workerId: 'other' })).toBe(false);
    expect((await jobRow(holder.database, job)).status).toBe('running');
    expect(await transition(db, job, 'failed', { jobId: job, epoch: 2, workerId: 'w' })).toBe(true);
    expect(await jobRow(holder.database, job)).toMatchObject({
      status: 'failed',
      workerId: null,
      leaseUntil: null,
    });
  });
});

describe('requestCancel', () => {
  it('cancels an unclaimed job at once, with its event', async () => {
    for (const status of ['validating_files', 'queued', 'running', 'paused'] as const) {
      const job = await createJob(holder.database, tenant, { status });
      expect(await requestCancel(holder.database, tenant.project.id, job)).toEqual({ outcome: 'cancelled' });
      const row = await jobRow(holder.database, job);
      expect(row.status).toBe('cancelled');
      expect(row.finishedAt).not.toBeNull();
      expect((await eventsOf(holder.database, job)).map((e) => [e.seq, e.message])).toEqual([
        [1, `Created fine-tuning job: ${job}`],
        [2, 'The job was cancelled'],
      ]);
    }
  });

  it('cancels a job whose holder let the lease run out', async () => {
    const job = await createJob(holder.database, tenant, { status: 'running', ...heldBy('w', 1, -1) });
    expect(await requestCancel(holder.database, tenant.project.id, job)).toEqual({ outcome: 'cancelled' });
  });

  it('asks the holder of a live lease, once', async () => {
    const job = await createJob(holder.database, tenant, { status: 'running', ...heldBy('w') });
    expect(await requestCancel(holder.database, tenant.project.id, job)).toEqual({
      outcome: 'requested',
      status: 'running',
    });
    const first = (await jobRow(holder.database, job)).cancelRequestedAt;
    expect(first).not.toBeNull();
    await requestCancel(holder.database, tenant.project.id, job);
    expect(await jobRow(holder.database, job)).toMatchObject({ status: 'running', cancelRequestedAt: first });
  });

  it('answers the state of an ended job and leaves it alone', async () => {
    for (const status of ['succeeded', 'failed', 'cancelled'] as const) {
      const job = await createJob(holder.database, tenant, { status });
      const before = await jobRow(holder.database, job);
      expect(await requestCancel(holder.database, tenant.project.id, job)).toEqual({
        outcome: 'terminal',
        status,
      });
      expect(await jobRow(holder.database, job)).toEqual(before);
    }
  });

  it("does not see another project's job", async () => {
    const job = await createJob(holder.database, tenant);
    expect(await requestCancel(holder.database, 'proj_other', job)).toEqual({ outcome: 'not_found' });
    expect((await jobRow(holder.database, job)).cancelRequestedAt).toBeNull();
  });

  it('races a claim: cancelled for good, or held and asked', async () => {
    for (let round = 0; round < 30; round += 1) {
      const job = await createJob(holder.database, tenant, { model: 'tiny', priority: -1 });
      const [fence, cancel] = await Promise.all([
        claim(holder.database, 'w', ['tiny'], 30),
        requestCancel(holder.database, tenant.project.id, job),
      ]);
      const row = await jobRow(holder.database, job);
      if (cancel.outcome === 'cancelled') {
        expect(row).toMatchObject({ status: 'cancelled', workerId: null });
        expect(fence?.jobId).not.toBe(job);
      } else {
        expect(cancel.outcome).toBe('requested');
        expect(fence?.jobId).toBe(job);
      }
    }
  });

  it('races a publish: exactly one of them wins', async () => {
    const wins = { succeeded: 0, requested: 0 };
    for (let round = 0; round < 40; round += 1) {
      const job = await createJob(holder.database, tenant, { status: 'running', ...heldBy('w') });
      const fence = { jobId: job, epoch: 1, workerId: 'w' };
      const publication = publicationOf(fence, `ft:tiny:acme::r${String(round).padStart(7, '0')}`);
      const [published, cancel] = await Promise.allSettled([
        publish(holder.database, fence, publication),
        requestCancel(holder.database, tenant.project.id, job),
      ]);
      const row = await jobRow(holder.database, job);
      if (published.status === 'fulfilled') {
        wins.succeeded += 1;
        expect(row).toMatchObject({ status: 'succeeded', fineTunedModel: publication.model.name });
        expect(cancel).toMatchObject({
          status: 'fulfilled',
          value: { outcome: 'terminal', status: 'succeeded' },
        });
      } else {
        wins.requested += 1;
        expect(published.reason).toMatchObject({ name: 'CancelRequested' });
        expect(row).toMatchObject({ status: 'running', fineTunedModel: null, resultFiles: [] });
        expect(row.cancelRequestedAt).not.toBeNull();
      }
    }
    expect(wins.succeeded + wins.requested).toBe(40);
  });
});

it('a job that ends without a result offers the checkpoints it announced, and no other', async () => {
  const { database } = holder;
  const job = await createJob(database, tenant, { status: 'running', ...heldBy('w') });
  const fence = { jobId: job, epoch: 1, workerId: 'w' };
  const files = [
    'adapter_config.json',
    'adapter_model.safetensors',
    'optimizer.safetensors',
    'trainer_state.json',
  ].map((name) => ({ name, bytes: 1, sha256: 'c'.repeat(64) }));
  const checkpoint = { storagePrefix: 'p/e1/ckpt', files, digest: 'e'.repeat(64), metrics: {} };
  await recordCheckpoint(database, fence, {
    ...checkpoint,
    kind: 'epoch',
    step: 2,
    modelName: `ft:tiny:acme::${job.slice(-8)}:ckpt-step-2`,
  });
  await recordCheckpoint(database, fence, { ...checkpoint, kind: 'state', step: 3, modelName: null });
  expect(await transition(database.db, job, 'cancelled', null)).toBe(true);
  const { rows } = await database.db.execute(
    sql`select id, step, is_checkpoint, kind, owned_by, files from tuned_models where job_id = ${job}`,
  );
  expect(rows).toEqual([
    {
      id: `ft:tiny:acme::${job.slice(-8)}:ckpt-step-2`,
      step: 2,
      is_checkpoint: true,
      kind: 'adapter',
      owned_by: 'acme',
      files: files.slice(0, 2),
    },
  ]);
});
