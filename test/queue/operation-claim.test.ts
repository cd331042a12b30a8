/** Which operations on models a worker takes, where workers hold different files under one base model's name. */
import { eq, sql } from 'drizzle-orm';
import { beforeAll, beforeEach, expect, it } from 'vitest';
import { workers } from '../../src/db/schema.ts';
import { modelOperations } from '../../src/db/schema-uploads.ts';
import { claimOperation } from '../../src/domain/adapters/operations-queue-repository.ts';
import { newId } from '../../src/ids.ts';
import { useDatabase } from '../helpers/database.ts';
import { BASE_MODEL, createTenant } from './fixture.ts';

const holder = useDatabase();
const [OURS, THEIRS] = ['a'.repeat(64), 'b'.repeat(64)];
let projectId: string;
beforeAll(async () => {
  projectId = (await createTenant(holder.database)).project.id;
});
beforeEach(async () => {
  await holder.database.db.execute(sql`truncate model_operations, workers`);
});

const take = async (digest: string) =>
  (await claimOperation(holder.database.db, 'w', { id: BASE_MODEL, digest }, 30))?.id ?? null;

async function addExport(baseDigest: string | null): Promise<string> {
  const id = newId('export_');
  await holder.database.db.insert(modelOperations).values({
    ...{ id, projectId, kind: 'export', baseModel: BASE_MODEL, baseDigest, modelId: 'ft:tiny' },
    ...{ inputPrefix: 'p', inputFiles: [] },
  });
  return id;
}

async function addWorker(baseDigest: string, baseModel = BASE_MODEL): Promise<string> {
  const id = newId('worker_');
  await holder.database.db.insert(workers).values({
    ...{ id, kind: 'inference', baseModel, baseDigest, device: 'cpu', host: 'h', pid: 1, state: 'ready' },
  });
  return id;
}

it('an export of a model that was trained on other files is left to the worker that holds those', async () => {
  await addWorker(OURS);
  await addWorker(THEIRS);
  const theirs = await addExport(THEIRS);
  const ours = await addExport(OURS);
  const anyones = await addExport(null);
  expect([await take(OURS), await take(OURS), await take(OURS)]).toEqual([ours, anyones, null]);
  expect([await take(THEIRS), await take(THEIRS)]).toEqual([theirs, null]);
});

it('waits for nobody: without a live worker that holds its files, the next one takes it and says so', async () => {
  await addWorker(OURS);
  await addWorker(THEIRS, 'another base model');
  const holding = await addWorker(THEIRS);
  const theirs = await addExport(THEIRS);
  expect(await take(OURS)).toBeNull();
  const longAgo = { heartbeatAt: sql`clock_timestamp() - interval '61 seconds'` };
  await holder.database.db.update(workers).set(longAgo).where(eq(workers.id, holding));
  expect(await take(OURS)).toBe(theirs);
});
