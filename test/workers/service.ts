/**
 * A small service for trainer tests, without HTTP: a database schema, disk storage in a temporary folder, a random tiny
 * model, and trainers that run in this process or as processes of their own.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { asc, eq, sql } from 'drizzle-orm';
import { type DestinationStream, pino } from 'pino';
import { afterAll, beforeAll, vi } from 'vitest';
import { type Config, loadConfig, PROJECT_ROOT } from '../../src/config.ts';
import type { Database } from '../../src/db/client.ts';
import { baseModels, files } from '../../src/db/schema.ts';
import { jobCheckpoints, jobEvents, jobs, tunedModels } from '../../src/db/schema-jobs.ts';
import { storedMethod } from '../../src/domain/jobs/methods.ts';
import { newId } from '../../src/ids.ts';
import { openDiskStorage } from '../../src/storage/disk.ts';
import type { Storage } from '../../src/storage/storage.ts';
import { parseFailpoint } from '../../workers/trainer/failpoints.ts';
import { supervise } from '../../workers/trainer/supervisor.ts';
import { createProject, useDatabase } from '../helpers/database.ts';
import { PROGRAM_FLAGS, plainEnvironment } from '../helpers/programs.ts';
import { writeTinyModel } from './tiny-model.ts';

export const BASE_MODEL = 'tiny/random';

export interface JobRequest {
  training: string;
  validation?: string;
  seed?: number;
  suffix?: string | null;
  hyperparameters?: {
    n_epochs?: number | 'auto';
    batch_size?: number | 'auto';
    learning_rate_multiplier?: number | 'auto';
    /** DPO only. */
    beta?: number | 'auto';
  };
  /** Default 'supervised'. */
  method?: 'supervised' | 'dpo';
  adapter?: Record<string, unknown>;
  trainer?: Record<string, unknown>;
  model?: string;
}

/** Everything of a job that a user could see, and its queue columns. */
export interface JobView {
  row: typeof jobs.$inferSelect;
  events: (typeof jobEvents.$inferSelect)[];
  checkpoints: (typeof jobCheckpoints.$inferSelect)[];
  /** On offer now. */
  models: (typeof tunedModels.$inferSelect)[];
  /** Also those that were taken back. */
  allModels: (typeof tunedModels.$inferSelect)[];
}

class TestService {
  root!: string;
  modelDir!: string;
  database!: Database;
  storage!: Storage;
  projectId!: string;
  /** Log lines of the trainers that ran in this process. */
  readonly log: Record<string, unknown>[] = [];
  readonly #processes = new Set<ChildProcess>();
  #trainers = 0;

  /** Makes the folder, the model and the project; nothing else works before. */
  async open(database: Database, dtype: 'f32' | 'bf16' = 'f32'): Promise<void> {
    this.database = database;
    this.root = mkdtempSync(path.join(tmpdir(), 'lathe-trainer-'));
    this.modelDir = path.join(this.root, 'model');
    const config = await writeTinyModel(this.modelDir, dtype);
    this.projectId = (await createProject(database)).id;
    await database.db.insert(baseModels).values({
      ...{ id: BASE_MODEL, location: this.modelDir, family: 'qwen3' },
      ...{ parameterCount: 100_000, contextLength: 128, config },
    });
    this.storage = await openDiskStorage(path.join(this.root, 'storage'));
  }

  async close(): Promise<void> {
    for (const child of this.#processes) child.kill('SIGKILL');
    rmSync(this.root, { recursive: true, force: true });
  }

  config(overrides: Partial<Config> = {}): Config {
    this.#trainers += 1;
    return loadConfig(
      {},
      {
        home: this.root,
        ...{ leaseSeconds: 10, heartbeatSeconds: 1, pollMilliseconds: 50, stallSeconds: 20, threads: 1 },
        ...{ crashBudget: 20, crashBackoffSeconds: [0.02], drainSeconds: 20 },
        scratchDir: path.join(this.root, `scratch-${this.#trainers}`),
        ...overrides,
      },
    );
  }

  async upload(content: string): Promise<string> {
    const id = newId('file-');
    const storageKey = `projects/${this.projectId}/files/${id}`;
    const stored = await this.storage.put(storageKey, Buffer.from(content));
    await this.database.db.insert(files).values({
      id,
      projectId: this.projectId,
      ...stored,
      filename: 'data.jsonl',
      purpose: 'fine-tune',
      storageKey,
    });
    return id;
  }

  /** Inserts a job as the API does. */
  async createJob(request: JobRequest): Promise<string> {
    const id = newId('ftjob-');
    await this.database.db.insert(jobs).values({
      id,
      projectId: this.projectId,
      model: request.model ?? BASE_MODEL,
      trainingFile: await this.upload(request.training),
      validationFile: request.validation === undefined ? null : await this.upload(request.validation),
      suffix: request.suffix ?? null,
      seed: request.seed ?? 7,
      method: storedMethod(request.hyperparameters, request.method),
      adapter: { peft_type: 'LORA', ...request.adapter },
      trainer: request.trainer ?? {},
      status: 'validating_files',
      eventSeq: 1,
    });
    await this.database.db.insert(jobEvents).values({
      ...{
        id: newId('ftevent-'),
        projectId: this.projectId,
        jobId: id,
        seq: 1,
        level: 'info',
        type: 'message',
      },
      message: `Created fine-tuning job: ${id}`,
    });
    return id;
  }

  /** Makes a job and runs it to its end, in this process. */
  async run(request: JobRequest): Promise<JobView> {
    const id = await this.createJob(request);
    await this.runQueue();
    return this.view(id);
  }

  /** Runs a trainer in this process until the queue is empty. */
  async runQueue(
    options: {
      config?: Partial<Config>;
      memoryLimitBytes?: number;
      failpoints?: string[];
      drain?: AbortSignal;
      once?: boolean;
    } = {},
  ) {
    const lines: DestinationStream = { write: (line) => void this.log.push(JSON.parse(line)) };
    await supervise({
      config: this.config(options.config),
      database: this.database,
      storage: this.storage,
      log: pino({ level: 'debug' }, lines),
      device: { kind: 'cpu', threads: 1, memoryLimitBytes: options.memoryLimitBytes },
      once: options.once ?? true,
      drain: options.drain ?? new AbortController().signal,
      failpoints: (options.failpoints ?? []).map(parseFailpoint),
    });
  }

  /** Starts a trainer as its own process, as production does. */
  startTrainer(args: string[] = [], env: Record<string, string> = {}) {
    this.#trainers += 1;
    const program = [...PROGRAM_FLAGS, path.join(PROJECT_ROOT, 'workers/trainer/main.ts')];
    const child = spawn(process.execPath, [...program, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        ...plainEnvironment(),
        ...{
          DATABASE_URL: this.database.url,
          LATHE_HOME: this.root,
          LATHE_POLL_MS: '50',
          LATHE_THREADS: '1',
        },
        ...{ LATHE_LEASE_SECONDS: '5', LATHE_HEARTBEAT_SECONDS: '1' },
        ...{ LATHE_CRASH_BUDGET: '50', LATHE_CRASH_BACKOFF_SECONDS: '0.02', LATHE_DRAIN_SECONDS: '20' },
        LATHE_SCRATCH_DIR: path.join(this.root, `scratch-${this.#trainers}`),
        ...env,
      },
    });
    this.#processes.add(child);
    const lines: string[] = [];
    for (const stream of [child.stdout, child.stderr])
      createInterface({ input: stream }).on('line', (line) => lines.push(line));
    const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null; output: string }>(
      (resolve) => {
        child.once('close', (code, signal) => {
          this.#processes.delete(child);
          resolve({ code, signal, output: lines.join('\n') });
        });
      },
    );
    /** The log line with this message, when it has come. */
    const logged = (msg: string) =>
      vi.waitFor(
        () => {
          const found = lines
            .map((line) => JSON.parse(line) as Record<string, unknown>)
            .find((line) => line.msg === msg);
          if (!found) throw new Error(`the trainer has not logged '${msg}' yet: ${lines.at(-1)}`);
          return found;
        },
        { timeout: 60_000, interval: 20 },
      );
    return { child, exited, logged };
  }

  async row(id: string): Promise<JobView['row']> {
    const [row] = await this.database.db.select().from(jobs).where(eq(jobs.id, id));
    return row!;
  }

  async view(id: string): Promise<JobView> {
    const { db } = this.database;
    const row = await this.row(id);
    const allModels = await db
      .select()
      .from(tunedModels)
      .where(eq(tunedModels.jobId, id))
      .orderBy(asc(tunedModels.step));
    return {
      row,
      events: await db.select().from(jobEvents).where(eq(jobEvents.jobId, id)).orderBy(asc(jobEvents.seq)),
      checkpoints: await db
        .select()
        .from(jobCheckpoints)
        .where(eq(jobCheckpoints.jobId, id))
        .orderBy(asc(jobCheckpoints.step)),
      models: allModels.filter((model) => model.deletedAt === null),
      allModels,
    };
  }

  /** Waits until the job's row satisfies `condition`, then reads everything. */
  async waitFor(
    id: string,
    condition: (job: Pick<JobView, 'row'>) => boolean,
    timeoutMs = 60_000,
  ): Promise<JobView> {
    await this.#poll(async () => ({ row: await this.row(id) }), condition, timeoutMs);
    return this.view(id);
  }

  /** Waits until everything there is of the job satisfies `condition`: dearer than a look at its row. */
  async waitForView(id: string, condition: (view: JobView) => boolean): Promise<JobView> {
    return this.#poll(() => this.view(id), condition, 60_000);
  }

  #poll<T extends Pick<JobView, 'row'>>(
    look: () => Promise<T>,
    condition: (job: T) => boolean,
    timeout: number,
  ): Promise<T> {
    const found = async () => {
      const job = await look();
      if (!condition(job)) throw new Error(`job is ${job.row.status} at ${JSON.stringify(job.row.progress)}`);
      return job;
    };
    return vi.waitFor(found, { timeout, interval: 30 });
  }

  /** The holder of this job is dead: the time until anyone may claim it passes at once. */
  async expireLease(id: string): Promise<void> {
    await this.database.db.update(jobs).set({ leaseUntil: sql`now()` }).where(eq(jobs.id, id));
  }

  async read(key: string): Promise<string> {
    return text(await this.storage.get(key));
  }

  /** Text of a file that the job produced. */
  async resultFile(id: string): Promise<string> {
    const [file] = await this.database.db.select().from(files).where(eq(files.id, id));
    return this.read(file!.storageKey);
  }
}

/** Overwrites one object in storage with other bytes of the same length. */
export async function spoil(storage: Storage, key: string): Promise<void> {
  const bytes = Buffer.concat(await (await storage.get(key)).toArray());
  bytes[bytes.length - 1]! ^= 1;
  await storage.put(key, bytes);
}

/** For a test file: registers the hooks; the service is open from beforeAll on. */
export function useTestService(dtype: 'f32' | 'bf16' = 'f32'): TestService {
  const held = useDatabase();
  const service = new TestService();
  beforeAll(() => service.open(held.database, dtype));
  afterAll(() => service.root && service.close());
  return service;
}
