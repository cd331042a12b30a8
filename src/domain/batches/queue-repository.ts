/**
 * Statements of the runner: claiming a batch, keeping the claim, and writing what came out. A claim raises the epoch,
 * and every later write carries it: zero rows means that the batch belongs to another runner now.
 */
import { and, asc, eq, gt, inArray, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { files, organizations, projects } from '../../db/schema.ts';
import { type BatchLineError, batches, batchResults } from '../../db/schema-batches.ts';
import type { BatchRow } from './repository.ts';

/** One claim of one runner. */
export interface Hold {
  id: string;
  projectId: string;
  epoch: number;
}

/** Another runner holds the batch, or it has ended. */
export class HoldLost extends Error {
  override name = 'HoldLost';

  constructor({ id, epoch }: Hold) {
    super(`The batch ${id} is no longer held by epoch ${epoch}.`);
  }
}

const OPEN = ['validating', 'in_progress', 'finalizing', 'cancelling'];
const held = (hold: Hold) =>
  and(
    eq(batches.projectId, hold.projectId),
    eq(batches.id, hold.id),
    eq(batches.epoch, hold.epoch),
    inArray(batches.status, OPEN),
  );
const after = (seconds: number) => sql`clock_timestamp() + make_interval(secs => ${seconds})`;

/** Takes the open batch that waits longest, of a project with as few running as possible; null when none waits. */
export async function claimBatch(
  db: Queryable,
  runnerId: string,
  leaseSeconds: number,
): Promise<Hold | null> {
  const open = sql`b.status in ('validating', 'in_progress', 'finalizing', 'cancelling')`;
  // What each project has running is counted once for the claim, not once for each batch that waits.
  const next = sql`(select b.id from ${batches} b
    left join (select b.project_id, count(*) as running from ${batches} b
      where ${open} and b.lease_until > clock_timestamp() group by b.project_id) held
      on held.project_id = b.project_id
    where ${open} and b.run_after <= clock_timestamp()
      and (b.lease_until is null or b.lease_until < clock_timestamp())
    order by coalesce(held.running, 0), b.created_at, b.id
    limit 1 for update of b skip locked)`;
  const rows = await db
    .update(batches)
    .set({ epoch: sql`${batches.epoch} + 1`, runnerId, leaseUntil: after(leaseSeconds) })
    .where(sql`${batches.id} = ${next}`)
    .returning({ id: batches.id, projectId: batches.projectId, epoch: batches.epoch });
  return rows[0] ?? null;
}

/** Renews the lease and tells what has become of the batch. Throws HoldLost. */
export async function renewHold(db: Queryable, hold: Hold, leaseSeconds: number) {
  const rows = await db
    .update(batches)
    .set({ leaseUntil: after(leaseSeconds) })
    .where(held(hold))
    .returning({ status: batches.status, overdue: sql<boolean>`${batches.expiresAt} <= clock_timestamp()` });
  if (!rows[0]) throw new HoldLost(hold);
  return rows[0];
}

/** Gives the batch back; another runner may take it after `seconds`. A hold that is lost already is no error. */
export async function releaseHold(
  db: Queryable,
  hold: Hold,
  seconds: number,
  crashed: boolean,
): Promise<void> {
  await db
    .update(batches)
    .set({
      leaseUntil: null,
      runnerId: null,
      runAfter: after(seconds),
      crashes: crashed ? sql`${batches.crashes} + 1` : batches.crashes,
    })
    .where(held(hold));
}

/** The batch with the file it reads and who it runs for. Throws HoldLost. */
export async function describeHold(db: Queryable, hold: Hold) {
  const rows = await db
    .select({
      batch: batches,
      storageKey: files.storageKey,
      organization: { id: organizations.id, slug: organizations.slug },
    })
    .from(batches)
    .innerJoin(files, and(eq(files.projectId, batches.projectId), eq(files.id, batches.inputFileId)))
    .innerJoin(projects, eq(projects.id, batches.projectId))
    .innerJoin(organizations, eq(organizations.id, projects.organizationId))
    .where(held(hold));
  if (!rows[0]) throw new HoldLost(hold);
  return rows[0];
}

async function writeHeld(db: Queryable, hold: Hold, changes: Record<string, unknown>): Promise<BatchRow> {
  const rows = await db.update(batches).set(changes).where(held(hold)).returning();
  if (!rows[0]) throw new HoldLost(hold);
  return rows[0];
}

/** From validating to in_progress; a cancel that came meanwhile stays. Throws HoldLost. */
export const startHeld = (db: Queryable, hold: Hold, total: number, model: string) =>
  writeHeld(db, hold, {
    total,
    model,
    status: sql`case when ${batches.status} = 'validating' then 'in_progress' else ${batches.status} end`,
    inProgressAt: sql`clock_timestamp()`,
  });

/** Every request has its answer, or none will get one any more. Throws HoldLost. */
export const finalizeHeld = (db: Queryable, hold: Hold) =>
  writeHeld(db, hold, {
    status: sql`case when ${batches.status} = 'cancelling' then 'cancelling' else 'finalizing' end`,
    finalizingAt: sql`coalesce(${batches.finalizingAt}, clock_timestamp())`,
  });

const emitted = (hold: Hold, event: string) =>
  sql`select lathe_emit_webhook(${hold.projectId}, ${event}, ${hold.id})`;

/** The input file cannot be run. In a transaction. Throws HoldLost. */
export async function failHeld(db: Queryable, hold: Hold, errors: BatchLineError[]): Promise<void> {
  await writeHeld(db, hold, { status: 'failed', errors, failedAt: sql`clock_timestamp()`, leaseUntil: null });
  await db.execute(emitted(hold, 'batch.failed'));
}

/** An answer, ready for the output or the error file. */
export interface LineResult {
  line: number;
  failed: boolean;
  record: string;
  usage: { input: number; cached: number; output: number };
}

/** Writes answers and counts them, all or none. In a transaction. Throws HoldLost. */
export async function addResults(db: Queryable, hold: Hold, results: readonly LineResult[]): Promise<void> {
  if (results.length === 0) return;
  const sum = (of: (each: LineResult) => number) => results.reduce((total, each) => total + of(each), 0);
  await writeHeld(db, hold, {
    completed: sql`${batches.completed} + ${sum((each) => (each.failed ? 0 : 1))}`,
    failed: sql`${batches.failed} + ${sum((each) => (each.failed ? 1 : 0))}`,
    inputTokens: sql`${batches.inputTokens} + ${sum((each) => each.usage.input)}`,
    cachedTokens: sql`${batches.cachedTokens} + ${sum((each) => each.usage.cached)}`,
    outputTokens: sql`${batches.outputTokens} + ${sum((each) => each.usage.output)}`,
    crashes: 0,
  });
  const rows = results.map(({ line, failed, record }) => ({
    projectId: hold.projectId,
    batchId: hold.id,
    ...{ line, failed, record },
  }));
  await db.insert(batchResults).values(rows);
}

/** Numbers of the lines that have their answer. */
export async function answeredLines(db: Queryable, hold: Hold): Promise<Set<number>> {
  const rows = await db
    .select({ line: batchResults.line })
    .from(batchResults)
    .where(and(eq(batchResults.projectId, hold.projectId), eq(batchResults.batchId, hold.id)));
  return new Set(rows.map((row) => row.line));
}

/** Up to `limit` records after `line`, in the order of their lines. */
export function recordsAfter(db: Queryable, hold: Hold, failed: boolean, line: number, limit: number) {
  return db
    .select({ line: batchResults.line, record: batchResults.record })
    .from(batchResults)
    .where(
      and(
        eq(batchResults.projectId, hold.projectId),
        eq(batchResults.batchId, hold.id),
        eq(batchResults.failed, failed),
        gt(batchResults.line, line),
      ),
    )
    .orderBy(asc(batchResults.line))
    .limit(limit);
}

export type Outcome = 'completed' | 'expired' | 'cancelled';

/** The batch's last word, with its files. In the transaction that makes the files exist. Throws HoldLost. */
export async function endHeld(
  db: Queryable,
  hold: Hold,
  outcome: Outcome,
  produced: { outputFileId: string | null; errorFileId: string | null },
): Promise<void> {
  await writeHeld(db, hold, {
    ...produced,
    status: outcome,
    [`${outcome}At`]: sql`clock_timestamp()`,
    leaseUntil: null,
    runnerId: null,
  });
  await db
    .delete(batchResults)
    .where(and(eq(batchResults.projectId, hold.projectId), eq(batchResults.batchId, hold.id)));
  await db.execute(emitted(hold, `batch.${outcome}`));
}
