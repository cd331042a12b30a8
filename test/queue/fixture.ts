/** Rows that the queue's tests start from: a base model, a training file and jobs in any state. */
import { eq } from 'drizzle-orm';
import type { Database } from '../../src/db/client.ts';
import { baseModels, files } from '../../src/db/schema.ts';
import { jobEvents, jobs } from '../../src/db/schema-jobs.ts';
import { newId } from '../../src/ids.ts';
import type { Fence, Publication } from '../../src/queue/queue.ts';
import { createProject } from '../helpers/database.ts';

type JobValues = typeof jobs.$inferInsert;

export const BASE_MODEL = 'tiny';
export const POLICY = { crashBudget: 3, crashBackoffSeconds: [0, 0, 0] };

/** A project with what a job refers to. */
export async function createTenant(database: Database) {
  const project = await createProject(database);
  await database.db
    .insert(baseModels)
    .values({
      id: BASE_MODEL,
      location: '/models/tiny',
      family: 'qwen3',
      parameterCount: 1000,
      contextLength: 64,
      config: {},
    })
    .onConflictDoNothing();
  const fileId = newId('file-');
  await database.db.insert(files).values({
    id: fileId,
    projectId: project.id,
    bytes: 1,
    filename: 'train.jsonl',
    purpose: 'fine-tune',
    storageKey: `projects/${project.id}/files/${fileId}`,
    sha256: '0'.repeat(64),
  });
  return { project, fileId };
}

/** Inserts a job as the API does, with its first event; `values` override. */
export async function createJob(
  database: Database,
  tenant: Awaited<ReturnType<typeof createTenant>>,
  values: Partial<JobValues> = {},
): Promise<string> {
  const id = newId('ftjob-');
  await database.db.insert(jobs).values({
    id,
    projectId: tenant.project.id,
    model: BASE_MODEL,
    trainingFile: tenant.fileId,
    seed: 1,
    method: { type: 'supervised' },
    adapter: { peft_type: 'LORA' },
    trainer: {},
    status: 'validating_files',
    eventSeq: 1,
    ...values,
  });
  await database.db.insert(jobEvents).values({
    id: newId('ftevent-'),
    projectId: tenant.project.id,
    jobId: id,
    seq: 1,
    level: 'info',
    type: 'message',
    message: `Created fine-tuning job: ${id}`,
  });
  return id;
}

export async function jobRow(database: Database, id: string) {
  const [row] = await database.db.select().from(jobs).where(eq(jobs.id, id));
  return row!;
}

/** The job's events, oldest first. */
export async function eventsOf(database: Database, id: string) {
  return database.db.select().from(jobEvents).where(eq(jobEvents.jobId, id)).orderBy(jobEvents.seq);
}

/** Columns of a job that a holder has claimed; the tests put it into any state with them. */
export function heldBy(workerId: string, epoch = 1, leaseSeconds = 30): Partial<JobValues> {
  return { workerId, epoch, attempts: epoch, leaseUntil: new Date(Date.now() + leaseSeconds * 1000) };
}

export function publicationOf(fence: Fence, name = `ft:tiny:acme::${fence.epoch}aaaaaaa`): Publication {
  const files = [{ name: 'adapter_model.safetensors', bytes: 4, sha256: 'a'.repeat(64) }];
  return {
    model: { name, step: 10, storagePrefix: `p/e${fence.epoch}/model`, files, digest: 'd'.repeat(64) },
    resultFile: {
      id: newId('file-'),
      bytes: 4,
      sha256: 'b'.repeat(64),
      filename: 'step_metrics.csv',
      purpose: 'fine-tune-results',
      storageKey: 'k',
    },
    trainedTokens: 1234,
  };
}
