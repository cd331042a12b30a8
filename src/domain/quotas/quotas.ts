/**
 * Quotas of a project: active jobs, open batches, files, bytes. Counted under a lock on the project where one is set, so
 * concurrent creations cannot pass together; without one there is neither lock nor count.
 */
import type { Config } from '../../config.ts';
import type { Queryable } from '../../db/client.ts';
import { quotaReached } from '../../errors.ts';
import {
  countActiveJobs,
  countOpenBatches,
  findQuotas,
  lockProject,
  measureFiles,
  measureImports,
  measureStoredCompletions,
} from './repository.ts';

export interface Quotas {
  /** 0 = no limit, as in the others. */
  maxActiveJobs: number;
  maxFiles: number;
  maxStorageBytes: number;
}

type QuotaConfig = Pick<Config, keyof Quotas>;

/** The quotas in force: the project's own, or the configured defaults. */
async function quotasOf(db: Queryable, config: QuotaConfig, projectId: string): Promise<Quotas> {
  const stored = await findQuotas(db, projectId);
  return {
    maxActiveJobs: stored?.maxActiveJobs ?? config.maxActiveJobs,
    maxFiles: stored?.maxFiles ?? config.maxFiles,
    maxStorageBytes: stored?.maxStorageBytes ?? config.maxStorageBytes,
  };
}

/** Within the transaction that inserts a job. Throws ApiError 429 `job_limit_reached`. */
export async function requireJobSlot(tx: Queryable, config: QuotaConfig, projectId: string): Promise<void> {
  const { maxActiveJobs: max } = await quotasOf(tx, config, projectId);
  if (max === 0) return;
  await lockProject(tx, projectId);
  if ((await countActiveJobs(tx, projectId)) < max) return;
  const message = `This project already has ${max} active fine-tuning ${max === 1 ? 'job' : 'jobs'}, which is its limit. Wait for one to end or cancel one.`;
  throw quotaReached(message, 'job_limit_reached', 429);
}

/** Within the transaction that inserts a batch. Throws ApiError 429 `batch_limit_reached`. */
export async function requireBatchSlot(
  tx: Queryable,
  { maxOpenBatches: max }: Pick<Config, 'maxOpenBatches'>,
  projectId: string,
): Promise<void> {
  if (max === 0) return;
  await lockProject(tx, projectId);
  if ((await countOpenBatches(tx, projectId)) < max) return;
  const message = `This project already has ${max} open ${max === 1 ? 'batch' : 'batches'}, which is its limit. Wait for one to end or cancel one.`;
  throw quotaReached(message, 'batch_limit_reached', 429);
}

/**
 * Within the transaction that inserts a file of `bytes`; outside of one (before the bytes are read) it only looks.
 * Throws ApiError 403 `storage_quota_exceeded` or `file_limit_reached`.
 */
export async function requireFileRoom(
  db: Queryable,
  config: QuotaConfig,
  projectId: string,
  bytes: number,
): Promise<void> {
  const quotas = await quotasOf(db, config, projectId);
  if (quotas.maxFiles === 0 && quotas.maxStorageBytes === 0) return;
  await lockProject(db, projectId);
  const used = await measureFiles(db, projectId);
  if (quotas.maxFiles > 0 && used.files >= quotas.maxFiles) {
    const message = `This project already has ${used.files} files; its limit is ${quotas.maxFiles}. Delete one first.`;
    throw quotaReached(message, 'file_limit_reached', 403);
  }
  if (quotas.maxStorageBytes > 0) await requireRoom(db, projectId, bytes, quotas.maxStorageBytes);
}

/**
 * Within the transaction that begins the import of an adapter of `bytes`. Throws ApiError 403 `storage_quota_exceeded`:
 * what is brought in counts like files.
 */
export async function requireImportRoom(
  tx: Queryable,
  config: QuotaConfig,
  projectId: string,
  bytes: number,
): Promise<void> {
  const { maxStorageBytes: max } = await quotasOf(tx, config, projectId);
  if (max === 0) return;
  await lockProject(tx, projectId);
  await requireRoom(tx, projectId, bytes, max);
}

/**
 * Before a completion is made whose caller wants it kept: `request()` is the size of what was asked. Throws ApiError 403
 * `storage_quota_exceeded`. It only looks, since the size of the answer is not known yet: completions that begin at the
 * same time may together pass the limit by what they store.
 */
export async function requireStoreRoom(
  db: Queryable,
  config: QuotaConfig,
  projectId: string,
  request: () => number,
): Promise<void> {
  const { maxStorageBytes: max } = await quotasOf(db, config, projectId);
  if (max > 0) await requireRoom(db, projectId, request(), max);
}

/** Files, imported adapters and stored completions share one limit. */
async function requireRoom(db: Queryable, projectId: string, bytes: number, max: number): Promise<void> {
  const files = await measureFiles(db, projectId);
  const imports = await measureImports(db, projectId);
  const completions = await measureStoredCompletions(db, projectId);
  const used = files.bytes + imports + completions;
  if (used + bytes <= max) return;
  const message = `The files, imported adapters and stored completions of this project have ${used} bytes; with this one they would have more than the limit of ${max}.`;
  throw quotaReached(message, 'storage_quota_exceeded', 403);
}
