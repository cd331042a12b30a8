/**
 * The sweep, on storage and rows of every kind, dead ones beside live ones: exactly the dead and old ones go, whoever
 * sweeps, and however often the sweeping process is killed.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, utimes } from 'node:fs/promises';
import path from 'node:path';
import { eq, sql } from 'drizzle-orm';
import { beforeEach, describe, expect, it } from 'vitest';
import { files } from '../../src/db/schema.ts';
import { jobCheckpoints, jobs, tunedModels } from '../../src/db/schema-jobs.ts';
import { modelOperations, uploadParts, uploads } from '../../src/db/schema-uploads.ts';
import { startSweeper, sweepOnce } from '../../src/domain/sweep/run.ts';
import { newId } from '../../src/ids.ts';
import { BASE_MODEL, TEN_ROWS, useApp } from '../helpers/app.ts';
import { PROGRAM_FLAGS, plainEnvironment } from '../helpers/programs.ts';

const t = useApp();
const DAY = 86_400;
const ago = (seconds: number) => new Date(Date.now() - seconds * 1000);
const P = () => `projects/${t.alice.projectId}`;

/** Puts an object; `old` ones were written two days ago. */
async function put(key: string, old = true): Promise<string> {
  await t.storage.put(key, Buffer.from(key));
  if (old) await utimes(path.join(t.storageDir, key), ago(2 * DAY), ago(2 * DAY));
  return key;
}

async function keys(): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of t.storage.list('projects/')) found.push(key);
  return found.sort();
}

async function addFile(fields: Partial<typeof files.$inferInsert> = {}): Promise<string> {
  const id = newId('file-');
  const storageKey = await put(`${P()}/files/${id}`);
  const row = {
    id,
    projectId: t.alice.projectId,
    bytes: 1,
    filename: 'x',
    purpose: 'fine-tune',
    sha256: '',
    storageKey,
  };
  await t.database.db.insert(files).values({ ...row, ...fields });
  return id;
}

type Job = typeof jobs.$inferInsert;

async function addJob(trainingFile: string, fields: Partial<Job> = {}): Promise<string> {
  const id = newId('ftjob-');
  await t.database.db.insert(jobs).values({
    ...{ id, projectId: t.alice.projectId, model: BASE_MODEL, trainingFile, seed: 1 },
    ...{ method: {}, adapter: {}, trainer: {}, status: 'queued', ...fields },
  });
  return id;
}

/** A checkpoint's objects and row; with `model` also the model that is offered under it. */
async function addCheckpoint(
  jobId: string,
  step: number,
  fields: { deletedAt?: Date; model?: { deletedAt?: Date } } = {},
): Promise<Record<'weights' | 'optimizer' | 'manifest', string>> {
  const storagePrefix = `${P()}/jobs/${jobId}/e1/ckpt-${step}`;
  const name = (file: string) => ({ name: file, bytes: 1, sha256: '' });
  const row = { projectId: t.alice.projectId, jobId, step, storagePrefix, digest: 'd' };
  const modelName = fields.model ? `ft:${BASE_MODEL}:acme::${newId('call_').slice(5, 13)}` : null;
  await t.database.db.insert(jobCheckpoints).values({
    ...{ ...row, id: newId('ftckpt_'), epoch: 1, kind: modelName ? 'epoch' : 'state', modelName },
    files: ['adapter_model.safetensors', 'optimizer.safetensors'].map(name),
    deletedAt: fields.deletedAt ?? null,
  });
  if (modelName) {
    await t.database.db.insert(tunedModels).values({
      ...{
        ...row,
        id: modelName,
        baseModel: BASE_MODEL,
        kind: 'adapter',
        ownedBy: 'acme',
        isCheckpoint: true,
      },
      files: [name('adapter_model.safetensors')],
      deletedAt: fields.model?.deletedAt ?? null,
    });
  }
  return {
    weights: await put(`${storagePrefix}/adapter_model.safetensors`),
    optimizer: await put(`${storagePrefix}/optimizer.safetensors`),
    manifest: await put(`${storagePrefix}/manifest.json`),
  };
}

async function addOperation(fields: Partial<typeof modelOperations.$inferInsert>): Promise<string> {
  const id = newId(fields.kind === 'import' ? 'import_' : 'export_');
  await t.database.db.insert(modelOperations).values({
    ...{ id, projectId: t.alice.projectId, kind: 'export', baseModel: BASE_MODEL, modelId: 'ft:x' },
    ...{ inputPrefix: 'nothing', inputFiles: [], ...fields },
  });
  return id;
}

async function addUpload(fields: Partial<typeof uploads.$inferInsert>): Promise<string> {
  const id = newId('upload_');
  await t.database.db.insert(uploads).values({
    ...{ id, projectId: t.alice.projectId, filename: 'x', purpose: 'evals', mimeType: 'x', bytes: 2 },
    expiresAt: new Date(Date.now() + 3_600_000),
    ...fields,
  });
  return id;
}

async function addPart(uploadId: string): Promise<string> {
  const id = newId('part_');
  const storageKey = await put(`${P()}/uploads/${uploadId}/${id}`);
  const row = { id, projectId: t.alice.projectId, uploadId, bytes: 1, sha256: '', storageKey };
  await t.database.db.insert(uploadParts).values(row);
  return storageKey;
}

/** One of everything; returns the keys that must stay and those that must go. */
async function oneOfEverything(): Promise<{ live: string[]; dead: string[] }> {
  const [live, dead]: [string[], string[]] = [[], []];
  const fileKey = (id: string) => `${P()}/files/${id}`;
  const training = await addFile();
  const deletedInUse = await addFile({ deletedAt: ago(DAY) });
  live.push(fileKey(training), fileKey(await addFile({ expiresAt: new Date(Date.now() + 60_000) })));
  live.push(fileKey(deletedInUse));
  dead.push(fileKey(await addFile({ deletedAt: ago(DAY) })), fileKey(await addFile({ expiresAt: ago(DAY) })));
  dead.push(await put(`${P()}/files/${newId('file-')}`)); // its process died before the row
  live.push(await put(`${P()}/files/${newId('file-')}`, false)); // its row may be about to come

  const running = await addJob(deletedInUse, {
    epoch: 3,
    workerId: 'w',
    leaseUntil: new Date(Date.now() + 60_000),
  });
  live.push(await put(`${P()}/jobs/${running}/e3/ckpt-9/optimizer.safetensors`)); // being uploaded
  dead.push(await put(`${P()}/jobs/${running}/e2/ckpt-9/optimizer.safetensors`)); // by an attempt that was lost
  live.push(...Object.values(await addCheckpoint(running, 5)));
  dead.push(...Object.values(await addCheckpoint(running, 4, { deletedAt: ago(2 * DAY) })));

  const paused = await addJob(training, { status: 'paused' });
  live.push(...Object.values(await addCheckpoint(paused, 5)));

  const ended = await addJob(training, { status: 'succeeded', finishedAt: ago(2 * DAY) });
  dead.push(...Object.values(await addCheckpoint(ended, 1)));
  const offered = await addCheckpoint(ended, 2, { model: {} });
  live.push(offered.weights, offered.manifest);
  dead.push(offered.optimizer); // nobody resumes an ended job
  dead.push(...Object.values(await addCheckpoint(ended, 3, { model: { deletedAt: ago(2 * DAY) } })));
  const justDeleted = await addCheckpoint(ended, 4, { model: { deletedAt: ago(60) } });
  live.push(justDeleted.weights, justDeleted.manifest);
  dead.push(justDeleted.optimizer);
  const start = await addCheckpoint(ended, 6, { model: { deletedAt: ago(2 * DAY) } });
  const prefix = path.dirname(start.weights);
  const continued = await addJob(training);
  await t.database.db.execute(
    sql`update fine_tuning_jobs set start = ${JSON.stringify({ storage_prefix: prefix })}::jsonb where id = ${continued}`,
  );
  live.push(...Object.values(start));

  const batch = newId('batch_');
  await t.database.db.execute(sql`
    insert into batches (id, project_id, key_id, endpoint, input_file_id, completion_window, status, expires_at, epoch, runner_id)
    values (${batch}, ${t.alice.projectId}, 'k', '/v1/chat/completions', ${training}, '24h', 'finalizing', now(), 2, 'r')`);
  live.push(await put(`${P()}/batches/${batch}/e2/output.jsonl`)); // its row comes with the batch's end
  dead.push(await put(`${P()}/batches/${batch}/e1/output.jsonl`));
  const output = await put(`${P()}/batches/${newId('batch_')}/e1/output.jsonl`);
  const outputRow = { id: newId('file-'), projectId: t.alice.projectId, bytes: 1, filename: 'x', sha256: '' };
  await t.database.db.insert(files).values({ ...outputRow, purpose: 'batch_output', storageKey: output });
  live.push(output);
  const input = await addFile({ expiresAt: ago(DAY) });
  await t.database.db.execute(sql`
    insert into batches (id, project_id, key_id, endpoint, input_file_id, completion_window, status, expires_at)
    values (${newId('batch_')}, ${t.alice.projectId}, 'k', '/v1/chat/completions', ${input}, '24h', 'in_progress', now())`);
  live.push(fileKey(input));

  live.push(await addPart(await addUpload({})));
  for (const status of ['completed', 'cancelled', 'expired'])
    dead.push(await addPart(await addUpload({ status, endedAt: ago(60) })));
  dead.push(await addPart(await addUpload({ expiresAt: ago(DAY) })));
  live.push(await addPart(await addUpload({ expiresAt: ago(60) }))); // a completion may still be at work
  dead.push(await put(`${P()}/uploads/${newId('upload_')}/${newId('part_')}`));

  const source = await addCheckpoint(ended, 7);
  await addOperation({ inputPrefix: path.dirname(source.weights) });
  live.push(...Object.values(source));
  const merging = await addOperation({ status: 'running', epoch: 2 });
  live.push(await put(`${P()}/exports/${merging}/e2/model.safetensors`));
  dead.push(await put(`${P()}/exports/${merging}/e1/model.safetensors`));
  for (const [expiresAt, kept] of [
    [new Date(Date.now() + 60_000), live],
    [ago(2 * DAY), dead],
  ] as const) {
    const id = newId('export_');
    const storagePrefix = `${P()}/exports/${id}/e1`;
    await addOperation({
      id,
      status: 'succeeded',
      storagePrefix,
      files: [],
      expiresAt,
      finishedAt: ago(DAY),
    });
    kept.push(await put(`${storagePrefix}/model.safetensors`));
  }
  // Exports of fully tuned models are the models' own files, also when the model is gone or another project's.
  const whole = await addCheckpoint(ended, 8, { model: { deletedAt: ago(2 * DAY) } });
  await addOperation({
    ...{ projectId: t.bob.projectId, status: 'succeeded', storagePrefix: path.dirname(whole.weights) },
    files: [{ name: path.basename(whole.weights), bytes: 1, sha256: '' }],
    ...{ finishedAt: ago(DAY), expiresAt: new Date(Date.now() + 60_000) },
  });
  live.push(whole.weights);
  dead.push(whole.optimizer, whole.manifest);
  const received = await addOperation({ kind: 'import' });
  await t.database.db
    .update(modelOperations)
    .set({ inputPrefix: `${P()}/imports/${received}` })
    .where(eq(modelOperations.id, received));
  live.push(await put(`${P()}/imports/${received}/adapter_config.json`));
  dead.push(await put(`${P()}/imports/${newId('import_')}/adapter_config.json`));
  const imported = `${P()}/adapters/${newId('import_')}/e1`;
  await t.database.db.insert(tunedModels).values({
    ...{ id: newId('call_'), projectId: t.alice.projectId, baseModel: BASE_MODEL, kind: 'adapter', step: 0 },
    ...{ ownedBy: 'acme', isCheckpoint: false, storagePrefix: imported, digest: 'd' },
    files: [{ name: 'adapter_config.json', bytes: 1, sha256: '' }],
  });
  live.push(await put(`${imported}/adapter_config.json`));
  dead.push(await put(`${P()}/adapters/${newId('import_')}/e1/adapter_config.json`));

  live.push(await put(`${P()}/somebody/elses/object`), await put(`projects/unknown`));
  // Another database has rows for these: it shares this storage, or it stood here before this one.
  live.push(await put(`projects/${newId('proj_')}/files/${newId('file-')}`));
  live.push(
    await put(`projects/${newId('proj_')}/jobs/${newId('ftjob-')}/e1/model/adapter_model.safetensors`),
  );
  return { live: live.sort(), dead: dead.sort() };
}

let expected: { live: string[]; dead: string[] };
beforeEach(async () => {
  for (const key of await keys()) await t.storage.delete(key);
  expected = await oneOfEverything();
  expect(await keys()).toEqual([...expected.live, ...expected.dead].sort());
});

describe('a sweep', () => {
  it('removes what nobody needs, and nothing else', async () => {
    const report = await sweepOnce(t);
    expect(report).toMatchObject({ ran: true, failed: {} });
    expect(await keys()).toEqual(expected.live);
    expect(Object.values(report.removed).every((count) => count > 0)).toBe(true);
    // Nothing is left to do, and users see what they saw.
    const again = await sweepOnce(t);
    expect(again).toEqual({ ran: true, removed: {}, failed: {} });
    expect(await keys()).toEqual(expected.live);
    expect(t.logged.some((line) => line.includes('left alone'))).toBe(true);
    const entries = await readdir(t.storageDir, { recursive: true, withFileTypes: true });
    const folders = entries.filter((entry) => entry.isDirectory() && entry.name !== '.tmp');
    for (const folder of folders)
      expect(await readdir(path.join(folder.parentPath, folder.name)), folder.name).not.toEqual([]);
  });

  it('goes on where a killed one stopped', { timeout: 120_000 }, async () => {
    for (const deletes of [1, 6, 9]) {
      const program = path.join(import.meta.dirname, 'sweep-and-die.ts');
      const args = [program, t.database.url, t.storageDir, String(deletes)];
      const child = spawn(process.execPath, [...PROGRAM_FLAGS, ...args]);
      const [, signal] = await once(child, 'exit');
      expect(signal).toBe('SIGKILL');
      const left = await keys();
      expect(left).toEqual(expect.arrayContaining(expected.live));
      expect(left.length).toBeGreaterThan(expected.live.length);
    }
    await expect.poll(async () => (await sweepOnce(t)).ran).toBe(true); // the lock went with its connection
    expect(await keys()).toEqual(expected.live);
  });

  it('is done by one process at a time', async () => {
    const reports = await Promise.all([sweepOnce(t), sweepOnce(t), sweepOnce(t)]);
    expect(reports.filter(({ ran }) => ran).length).toBeGreaterThanOrEqual(1);
    let inside = 0;
    const slow = {
      name: 'slow',
      run: async () => {
        inside += 1;
        const other = await sweepOnce(t);
        return other.ran ? 1 : 0;
      },
    };
    expect(await sweepOnce(t, undefined, [slow])).toEqual({ ran: true, removed: {}, failed: {} });
    expect(inside).toBe(1);
    expect(await keys()).toEqual(expected.live);
  });

  it('does the rest when one part of it fails', async () => {
    const broken = { name: 'broken', run: () => Promise.reject(new Error('storage is away')) };
    const works = { name: 'works', run: async () => 3 };
    expect(await sweepOnce(t, undefined, [broken, works])).toEqual({
      ran: true,
      removed: { works: 3 },
      failed: { broken: 'storage is away' },
    });
  });

  it('keeps a training file that is deleted or expires until its job has ended', async () => {
    const id = await t.upload(TEN_ROWS);
    const job = await t.call('POST', '/v1/fine_tuning/jobs', {
      json: { model: BASE_MODEL, training_file: id },
    });
    await t.database.db
      .update(files)
      .set({ expiresAt: ago(DAY) })
      .where(eq(files.id, id));
    expect((await t.call('GET', `/v1/files/${id}`)).status).toBe(404);
    await sweepOnce(t);
    expect(await keys()).toContain(`${P()}/files/${id}`);
    await t.call('POST', `/v1/fine_tuning/jobs/${job.json.id}/cancel`);
    await sweepOnce(t);
    expect(await keys()).not.toContain(`${P()}/files/${id}`);
  });

  it('is a command, too', { timeout: 60_000 }, async () => {
    const cli = path.join(import.meta.dirname, '../../src/cli.ts');
    const env = {
      ...plainEnvironment(),
      ...{ DATABASE_URL: t.database.url, LATHE_STORAGE_DIR: t.storageDir },
    };
    const run = async () => {
      const child = spawn(process.execPath, [...PROGRAM_FLAGS, cli, 'sweep'], { env });
      const [text] = await Promise.all([child.stdout.toArray(), once(child, 'exit')]);
      return [child.exitCode, Buffer.concat(text).toString()];
    };
    expect(await run()).toEqual([0, expect.stringMatching(/^\d+\tunreferenced objects$/m)]);
    expect(await keys()).toEqual(expected.live);
    expect(await run()).toEqual([0, 'There was nothing to remove.\n']);
  });

  it('runs by itself beside the API', async () => {
    const sweeper = startSweeper({ ...t, config: { ...t.config, sweepSeconds: 0.05 } });
    await expect.poll(keys, { timeout: 10_000 }).toEqual(expected.live);
    await sweeper.stop();
  });
});
