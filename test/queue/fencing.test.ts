/** What a zombie can do: a worker whose job was given to another must change nothing, on every write path. */
import { eq, sql } from 'drizzle-orm';
import { beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Database } from '../../src/db/client.ts';
import { jobs } from '../../src/db/schema-jobs.ts';
import { modelOperations } from '../../src/db/schema-uploads.ts';
import { requestCancel } from '../../src/domain/jobs/states.ts';
import { newId } from '../../src/ids.ts';
import * as queue from '../../src/queue/queue.ts';
import { type Fence, message } from '../../src/queue/queue.ts';
import { useDatabase } from '../helpers/database.ts';
import {
  BASE_MODEL,
  createJob,
  createTenant,
  eventsOf,
  heldBy,
  jobRow,
  POLICY,
  publicationOf,
} from './fixture.ts';

const holder = useDatabase();
let tenant: Awaited<ReturnType<typeof createTenant>>;
beforeAll(async () => {
  tenant = await createTenant(holder.database);
});

const checkpointOf = (step: number, kind: 'epoch' | 'state' = 'state', modelName: string | null = null) => ({
  kind,
  step,
  modelName,
  storagePrefix: `p/e1/ckpt-${step}`,
  files: [{ name: 'adapter_model.safetensors', bytes: 1, sha256: 'c'.repeat(64) }],
  digest: 'd'.repeat(64),
  metrics: { step },
});

/** Every way in which a holder writes. */
const WRITES: Record<string, (database: Database, fence: Fence) => Promise<unknown>> = {
  heartbeat: (d, f) => queue.heartbeat(d, f, 30),
  checkRequests: (d, f) => queue.checkRequests(d, f),
  pause: (d, f) => queue.pause(d, f),
  appendEvents: (d, f) => queue.appendEvents(d, f, [message('info', 'zombie')]),
  saveSettings: (d, f) => queue.saveSettings(d, f, { method: 1, adapter: 1, trainer: 1 }),
  'advance to queued': (d, f) => queue.advance(d, f, 'queued', [message('info', 'zombie')]),
  'advance to running': (d, f) => queue.advance(d, f, 'running', [message('info', 'zombie')]),
  recordCheckpoint: (d, f) => queue.recordCheckpoint(d, f, checkpointOf(1)),
  publish: (d, f) => queue.publish(d, f, publicationOf(f)),
  fail: (d, f) => queue.fail(d, f, { code: 'x', message: 'zombie', param: null }),
  cancel: (d, f) => queue.cancel(d, f),
  release: (d, f) => queue.release(d, f),
  crash: (d, f) => queue.crash(d, f, 'zombie', POLICY),
};

async function everything(database: Database, id: string) {
  const count = async (table: string) =>
    (await database.db.execute(sql.raw(`select count(*)::int as n from ${table} where job_id = '${id}'`)))
      .rows[0]!.n;
  const results = await database.db.execute(
    sql`select count(*)::int as n from files where purpose = 'fine-tune-results'`,
  );
  return [
    await jobRow(database, id),
    await eventsOf(database, id),
    await count('tuned_models'),
    await count('fine_tuning_job_checkpoints'),
    results.rows[0]!.n,
  ];
}

describe.each(Object.entries(WRITES))('%s by a zombie', (_, write) => {
  it.each([
    ['another worker holds the job', { status: 'running', ...heldBy('new', 2) }],
    ['the same worker holds a later claim', { status: 'running', ...heldBy('zombie', 2) }],
    ['it was reaped and waits', { status: 'running', epoch: 1 }],
    ['validation runs elsewhere', { status: 'validating_files', ...heldBy('new', 2) }],
    ['the job was cancelled', { status: 'cancelled', epoch: 1 }],
    ['the job succeeded', { status: 'succeeded', epoch: 2, fineTunedModel: 'ft:other' }],
  ] as const)('changes nothing when %s', async (_case, values) => {
    const id = await createJob(holder.database, tenant, values);
    const before = await everything(holder.database, id);
    const fence = { jobId: id, epoch: 1, workerId: 'zombie' };
    await expect(write(holder.database, fence)).rejects.toMatchObject({ name: 'LeaseLost' });
    expect(await everything(holder.database, id)).toEqual(before);
  });
});

describe('a write that waits for the row', () => {
  it('changes nothing when the row went to another worker meanwhile', async () => {
    const id = await createJob(holder.database, tenant, { status: 'running', ...heldBy('slow', 1) });
    const fence = { jobId: id, epoch: 1, workerId: 'slow' };
    let late: Promise<unknown> = Promise.resolve();
    let waited = 0;
    await holder.database.transaction(async (tx) => {
      await tx.execute(sql`select 1 from fine_tuning_jobs where id = ${id} for update`);
      const startedAt = performance.now();
      late = queue.publish(holder.database, fence, publicationOf(fence)).finally(() => {
        waited = performance.now() - startedAt;
      });
      late.catch(() => {}); // judged below
      await tx.execute(sql`select pg_sleep(0.3)`);
      await tx.execute(sql`update fine_tuning_jobs set epoch = 2, worker_id = 'new' where id = ${id}`);
    });
    await expect(late).rejects.toMatchObject({ name: 'LeaseLost' });
    expect(waited).toBeGreaterThan(250);
    expect(await jobRow(holder.database, id)).toMatchObject({
      status: 'running',
      workerId: 'new',
      fineTunedModel: null,
    });
  });
});

describe('the holder', () => {
  let id: string;
  let fence: Fence;
  beforeEach(async () => {
    id = await createJob(holder.database, tenant, { status: 'running', ...heldBy('w', 1) });
    fence = { jobId: id, epoch: 1, workerId: 'w' };
  });

  it('appends events without gaps, also from several writers at once, and repeats add nothing', async () => {
    const batches = Array.from({ length: 10 }, (_, b) =>
      Array.from({ length: 3 }, (_, i) => message('info', `${b}.${i}`)),
    );
    await Promise.all(batches.map((batch) => queue.appendEvents(holder.database, fence, batch)));
    await queue.appendEvents(holder.database, fence, [...batches[0]!, message('warn', 'new')]);
    const events = await eventsOf(holder.database, id);
    expect(events.map((e) => e.seq)).toEqual(Array.from({ length: 32 }, (_, i) => i + 1));
    expect((await jobRow(holder.database, id)).eventSeq).toBe(32);
    for (const batch of batches) {
      const at = batch.map((e) => events.findIndex((found) => found.id === e.id));
      expect(at).toEqual([at[0], at[0]! + 1, at[0]! + 2]);
    }
    expect(events.at(-1)).toMatchObject({ message: 'new', level: 'warn', type: 'message', data: {} });
  });

  it('stores text that Postgres refuses as it is', async () => {
    await queue.appendEvents(holder.database, fence, [message('error', 'a\u0000b\ud800c')]);
    expect((await eventsOf(holder.database, id)).at(-1)!.message).toBe('a\ufffdb\ufffdc');
  });

  it('saves progress with its events', async () => {
    const progress = { step: 3, total_steps: 9, epoch: 0.5 };
    await queue.appendEvents(holder.database, fence, [], {
      progress,
      trainedTokens: 77,
      finishInSeconds: 60,
    });
    const row = await jobRow(holder.database, id);
    expect(row).toMatchObject({ progress, trainedTokens: 77, eventSeq: 1 });
    expect(Math.abs(row.estimatedFinish!.getTime() - Date.now() - 60_000)).toBeLessThan(5_000);
  });

  it('keeps three epochs and two states, tells what may go, and clears the crash count', async () => {
    await holder.database.db.execute(sql`update fine_tuning_jobs set crashes = 2 where id = ${id}`);
    const retired: string[] = [];
    const record = async (...args: Parameters<typeof checkpointOf>) =>
      retired.push(...(await queue.recordCheckpoint(holder.database, fence, checkpointOf(...args))).retired);
    for (const step of [1, 2, 3]) await record(step);
    expect((await jobRow(holder.database, id)).crashes).toBe(0);
    for (const step of [4, 8, 12, 16])
      await record(step, 'epoch', `ft:tiny:acme::${id.slice(-8)}:ckpt-step-${step}`);
    await record(17);
    expect(retired).toEqual(['p/e1/ckpt-1', 'p/e1/ckpt-2', 'p/e1/ckpt-3', 'p/e1/ckpt-4']);
    expect((await queue.listCheckpoints(holder.database, fence)).map((c) => [c.step, c.kind])).toEqual([
      [17, 'state'],
      [16, 'epoch'],
      [12, 'epoch'],
      [8, 'epoch'],
    ]);
    expect((await eventsOf(holder.database, id)).slice(1).map((e) => e.message)).toEqual(
      [4, 8, 12, 16].map(
        (step) =>
          `Checkpoint created at step ${step} with Snapshot ID: ft:tiny:acme::${id.slice(-8)}:ckpt-step-${step}`,
      ),
    );
  });

  it('a checkpoint made again takes the place of the damaged one and keeps its name', async () => {
    await queue.recordCheckpoint(holder.database, fence, checkpointOf(4, 'epoch', 'first:ckpt-step-4'));
    await holder.database.db.execute(sql`update fine_tuning_jobs set epoch = 2 where id = ${id}`);
    const again = { ...checkpointOf(4, 'epoch', 'second:ckpt-step-4'), storagePrefix: 'p/e2/ckpt-4' };
    await queue.recordCheckpoint(holder.database, { ...fence, epoch: 2 }, again);
    const rows = await queue.listCheckpoints(holder.database, fence);
    expect(rows).toHaveLength(1);
    expect(rows[0]).toMatchObject({ modelName: 'first:ckpt-step-4', epoch: 2, storagePrefix: 'p/e2/ckpt-4' });
    expect(await eventsOf(holder.database, id)).toHaveLength(2);
  });

  it('publishes everything at once, and a repeat after a lost answer changes nothing', async () => {
    await queue.recordCheckpoint(
      holder.database,
      fence,
      checkpointOf(5, 'epoch', `ft:tiny:acme::${id.slice(-8)}:ckpt-step-5`),
    );
    await queue.recordCheckpoint(holder.database, fence, checkpointOf(10));
    const publication = publicationOf(fence, `ft:tiny:acme::${id.slice(0, 8)}`);
    await queue.publish(holder.database, fence, publication);
    const after = await everything(holder.database, id);
    expect(await jobRow(holder.database, id)).toMatchObject({
      status: 'succeeded',
      fineTunedModel: publication.model.name,
      resultFiles: [publication.resultFile.id],
      trainedTokens: 1234,
      workerId: null,
      error: null,
    });
    expect((await eventsOf(holder.database, id)).slice(-2).map((e) => e.message)).toEqual([
      `New fine-tuned model created: ${publication.model.name}`,
      'The job has successfully completed',
    ]);
    const { rows } = await holder.database.db.execute(
      sql`select id, is_checkpoint from tuned_models where job_id = ${id} order by step`,
    );
    expect(rows).toEqual([
      { id: `ft:tiny:acme::${id.slice(-8)}:ckpt-step-5`, is_checkpoint: true },
      { id: publication.model.name, is_checkpoint: false },
    ]);
    expect(
      (await queue.listCheckpoints(holder.database, fence)).map((c) => [c.step, c.kind, c.modelName]),
    ).toEqual([
      [10, 'epoch', publication.model.name],
      [5, 'epoch', `ft:tiny:acme::${id.slice(-8)}:ckpt-step-5`],
    ]);
    expect(await queue.publish(holder.database, fence, publication)).toEqual({ retired: [] });
    expect(await everything(holder.database, id)).toEqual(after);
  });

  it('a publish that fails half way leaves nothing', async () => {
    const before = await everything(holder.database, id);
    const publication = publicationOf(fence, `ft:tiny:acme::x${id.slice(-7)}`);
    publication.resultFile.id = tenant.fileId; // taken: the second statement of the transaction breaks
    await expect(queue.publish(holder.database, fence, publication)).rejects.toThrow();
    expect(await everything(holder.database, id)).toEqual(before);
  });

  it('fails with details in front of the error', async () => {
    const error = { code: 'invalid_training_file', message: 'The job failed.', param: 'training_file' };
    await queue.fail(holder.database, fence, error, [
      message('error', 'Line 3: bad'),
      message('error', 'Line 4: bad'),
    ]);
    expect(await jobRow(holder.database, id)).toMatchObject({ status: 'failed', error, workerId: null });
    expect((await eventsOf(holder.database, id)).slice(1).map((e) => e.message)).toEqual([
      'Line 3: bad',
      'Line 4: bad',
      'The job failed.',
    ]);
  });
});

describe('a move whose reply was lost', () => {
  it('is repeated without a second event, and still refused to a worker that holds the job no more', async () => {
    const id = await createJob(holder.database, tenant, { ...heldBy('w', 1) });
    const fence = { jobId: id, epoch: 1, workerId: 'w' };
    const move = () => queue.advance(holder.database, fence, 'queued', [message('info', 'moved')]);
    await move();
    await move();
    const texts = (await eventsOf(holder.database, id)).map((event) => event.message);
    expect(texts.filter((text) => text === 'moved')).toHaveLength(1);
    await holder.database.db.execute(sql`update fine_tuning_jobs set epoch = 2 where id = ${id}`);
    await expect(move()).rejects.toMatchObject({ name: 'LeaseLost' });
  });
});

describe('a checkpoint that makes room for newer ones', () => {
  it('is not given for removal while an export reads it', async () => {
    const id = await createJob(holder.database, tenant, { status: 'running', ...heldBy('w', 1) });
    const fence = { jobId: id, epoch: 1, workerId: 'w' };
    const record = async (step: number) => {
      const checkpoint = checkpointOf(step, 'epoch', `ft:x:ckpt-step-${step}:${id}`);
      const storagePrefix = `${id}/ckpt-${step}`;
      return (await queue.recordCheckpoint(holder.database, fence, { ...checkpoint, storagePrefix })).retired;
    };
    for (const step of [1, 2, 3]) expect(await record(step)).toEqual([]);
    await holder.database.db.insert(modelOperations).values({
      ...{ id: newId('export_'), projectId: tenant.project.id, kind: 'export', baseModel: BASE_MODEL },
      ...{ modelId: 'ft:x', inputPrefix: `${id}/ckpt-1`, inputFiles: [], status: 'running' },
    });
    expect(await record(4)).toEqual([]);
    expect(await record(5)).toEqual([`${id}/ckpt-2`]);
  });
});

describe('the training states of a job that ends', () => {
  const asked = { cancelRequestedAt: new Date() };
  const ENDS: [string, object, (database: Database, fence: Fence) => Promise<unknown>][] = [
    ['a failure', {}, (d, f) => queue.fail(d, f, { code: 'x', message: 'bad', param: null })],
    ['a cancel by its holder', asked, (d, f) => queue.cancel(d, f)],
    ['a spent crash budget', { crashes: 2 }, (d, f) => queue.crash(d, f, 'hung', POLICY)],
    ['a crash of a job to be cancelled', asked, (d, f) => queue.crash(d, f, 'hung', POLICY)],
    ['a release of a job to be cancelled', asked, (d, f) => queue.release(d, f)],
  ];
  async function withCheckpoints(values: object) {
    const id = await createJob(holder.database, tenant, { status: 'running', ...heldBy('w', 1) });
    const fence = { jobId: id, epoch: 1, workerId: 'w' };
    await queue.recordCheckpoint(holder.database, fence, checkpointOf(1, 'epoch', `ft:x:ckpt-step-1:${id}`));
    await queue.recordCheckpoint(holder.database, fence, checkpointOf(2));
    if (Object.keys(values).length > 0)
      await holder.database.db.update(jobs).set(values).where(eq(jobs.id, id));
    return fence;
  }
  const kept = async (fence: Fence) =>
    (await queue.listCheckpoints(holder.database, fence)).map((row) => row.step);

  it.each(ENDS)('are retired by %s; what was announced stays', async (_, values, end) => {
    const fence = await withCheckpoints(values);
    expect(await end(holder.database, fence)).toMatchObject({ retired: ['p/e1/ckpt-2'] });
    expect(await kept(fence)).toEqual([1]);
  });

  it('are retired by a cancel while nobody holds it', async () => {
    const fence = await withCheckpoints({ workerId: null, leaseUntil: null });
    await requestCancel(holder.database, tenant.project.id, fence.jobId);
    expect(await kept(fence)).toEqual([1]);
  });

  it('stay when the job only waits for the next worker', async () => {
    const fence = await withCheckpoints({});
    expect(await queue.crash(holder.database, fence, 'hung', POLICY)).toEqual({
      outcome: 'retried',
      retired: [],
    });
    expect(await kept(fence)).toEqual([2, 1]);
  });
});
