/**
 * The statements of a worker about operations on models: claim, lease, result. Every write of a holder is fenced by
 * (operation, epoch, worker), so that one that was away too long changes nothing.
 */
import { and, eq, sql } from 'drizzle-orm';
import type { Database, Queryable } from '../../db/client.ts';
import type { StoredFile } from '../../db/columns.ts';
import { workers } from '../../db/schema.ts';
import { tunedModels } from '../../db/schema-jobs.ts';
import { modelOperations } from '../../db/schema-uploads.ts';
import { CLAIMS_MAX, type OperationRow, organizationSlug } from './operations-repository.ts';

export interface OperationError {
  code: string;
  message: string;
  param: string | null;
}

/** A worker's hold on an operation: valid for one claim. */
export interface OperationFence {
  id: string;
  epoch: number;
  workerId: string;
}

const lease = (seconds: number) => sql`clock_timestamp() + make_interval(secs => ${seconds})`;
const held = (fence: OperationFence) =>
  and(
    eq(modelOperations.id, fence.id),
    eq(modelOperations.epoch, fence.epoch),
    eq(modelOperations.workerId, fence.workerId),
    eq(modelOperations.status, 'running'),
  );

/** A worker that was silent for longer does not come back to its operations. */
const ALIVE_SECONDS = 60;

/**
 * Takes the oldest operation on this base model that nobody holds, or null. One that belongs to other files of the base
 * model is left to the workers that hold those; when none lives, whoever takes it can only say so.
 */
export async function claimOperation(
  db: Queryable,
  workerId: string,
  base: { id: string; digest: string },
  leaseSeconds: number,
): Promise<OperationRow | null> {
  const othersHoldIt = sql`exists (select 1 from ${workers} w where w.kind = 'inference' and w.base_model = o.base_model
    and w.base_digest = o.base_digest and w.heartbeat_at > clock_timestamp() - make_interval(secs => ${ALIVE_SECONDS}))`;
  const rows = await db
    .update(modelOperations)
    .set({
      ...{ status: 'running', workerId, leaseUntil: lease(leaseSeconds) },
      epoch: sql`${modelOperations.epoch} + 1`,
    })
    .where(
      sql`${modelOperations.id} = (select o.id from ${modelOperations} o where o.base_model = ${base.id}
        and (o.status = 'queued' or (o.status = 'running' and o.lease_until < clock_timestamp()))
        and (o.base_digest is null or o.base_digest = ${base.digest} or not ${othersHoldIt})
        and o.epoch < ${CLAIMS_MAX} order by o.created_at limit 1 for update skip locked)`,
    )
    .returning();
  return rows[0] ?? null;
}

/** False when the hold is lost. */
export async function renewOperation(
  db: Queryable,
  fence: OperationFence,
  leaseSeconds: number,
): Promise<boolean> {
  const { rowCount } = await db
    .update(modelOperations)
    .set({ leaseUntil: lease(leaseSeconds) })
    .where(held(fence));
  return rowCount === 1;
}

/** Gives the operation back unharmed: the worker is leaving. */
export async function releaseOperation(db: Queryable, fence: OperationFence): Promise<void> {
  await db
    .update(modelOperations)
    .set({ status: 'queued', workerId: null, leaseUntil: null, epoch: sql`${modelOperations.epoch} - 1` })
    .where(held(fence));
}

export async function failOperation(
  db: Queryable,
  fence: OperationFence,
  error: OperationError,
): Promise<boolean> {
  const { rowCount } = await db
    .update(modelOperations)
    .set({ status: 'failed', error, finishedAt: sql`clock_timestamp()` })
    .where(held(fence));
  return rowCount === 1;
}

export interface OperationResult {
  storagePrefix: string;
  files: StoredFile[];
}

/** The merged model can be downloaded from now on. False when the hold is lost. */
export async function finishExport(
  db: Queryable,
  fence: OperationFence,
  result: OperationResult,
  expiresInSeconds: number,
): Promise<boolean> {
  const { rowCount } = await db
    .update(modelOperations)
    .set({
      ...{ status: 'succeeded', ...result, finishedAt: sql`clock_timestamp()` },
      expiresAt: sql`clock_timestamp() + make_interval(secs => ${expiresInSeconds})`,
    })
    .where(held(fence));
  return rowCount === 1;
}

/** The imported adapter is a model from now on: one transaction. False when the hold is lost. */
export function finishImport(
  database: Pick<Database, 'transaction'>,
  fence: OperationFence,
  result: OperationResult & { digest: string; baseDigest: string },
): Promise<boolean> {
  return database.transaction(async (tx) => {
    const { digest, baseDigest, ...stored } = result;
    const [row] = await tx
      .update(modelOperations)
      .set({ status: 'succeeded', ...stored, finishedAt: sql`clock_timestamp()` })
      .where(held(fence))
      .returning();
    if (!row) return false;
    await tx.insert(tunedModels).values({
      ...{ id: row.modelId, projectId: row.projectId, jobId: null, baseModel: row.baseModel },
      ...{ kind: 'adapter', step: 0, isCheckpoint: false, ...stored, digest, baseDigest },
      ownedBy: await organizationSlug(tx, row.projectId),
    });
    return true;
  });
}
