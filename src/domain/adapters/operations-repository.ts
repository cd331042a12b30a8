/**
 * The statements about work on models (imports and exports) as the API and the sweep need them; those of the API each
 * name the project. What the worker that holds an operation writes is in operations-queue-repository.ts.
 */
import { and, desc, eq, inArray, notInArray, type SQL, sql } from 'drizzle-orm';
import type { Database, Queryable } from '../../db/client.ts';
import { pageOf } from '../../db/page.ts';
import { organizations, projects } from '../../db/schema.ts';
import { modelOperations } from '../../db/schema-uploads.ts';

export type OperationRow = typeof modelOperations.$inferSelect;
export type OperationKind = 'export' | 'import';
/** Claims after which an operation whose workers all died is given up. */
export const CLAIMS_MAX = 3;
/** Nobody took it for this long. */
const WAITING_SECONDS_MAX = 24 * 3600;

export type NewOperation = Pick<
  typeof modelOperations.$inferInsert,
  'id' | 'projectId' | 'kind' | 'baseModel' | 'modelId' | 'inputPrefix' | 'inputFiles'
> &
  Partial<Pick<typeof modelOperations.$inferInsert, 'status' | 'storagePrefix' | 'files' | 'finishedAt'>>;

/** `expiresInSeconds` is for an operation that is done already: its result can be had at once. */
export async function insertOperation(
  db: Queryable,
  operation: NewOperation,
  expiresInSeconds?: number,
): Promise<OperationRow> {
  const expiresAt =
    expiresInSeconds === undefined
      ? null
      : sql`clock_timestamp() + make_interval(secs => ${expiresInSeconds})`;
  const rows = await db
    .insert(modelOperations)
    .values({ ...operation, expiresAt })
    .returning();
  return rows[0]!;
}

/** The third segment of the names of the project's models. */
export async function organizationSlug(db: Queryable, projectId: string): Promise<string> {
  const rows = await db
    .select({ slug: organizations.slug })
    .from(projects)
    .innerJoin(organizations, eq(organizations.id, projects.organizationId))
    .where(eq(projects.id, projectId));
  return rows[0]!.slug;
}

const isOver = sql`(${modelOperations.status} = 'expired' or ${modelOperations.expiresAt} <= clock_timestamp())`;
const visible = (projectId: string, kind: OperationKind) =>
  and(
    eq(modelOperations.projectId, projectId),
    eq(modelOperations.kind, kind),
    sql`not coalesce(${isOver}, false)`,
  );

/** The operation, unless it is over. */
export async function findOperation(
  db: Queryable,
  projectId: string,
  kind: OperationKind,
  id: string,
): Promise<OperationRow | null> {
  const rows = await db
    .select()
    .from(modelOperations)
    .where(and(visible(projectId, kind), eq(modelOperations.id, id)));
  return rows[0] ?? null;
}

/** The model's export that runs or can be downloaded. */
export async function findLiveExport(
  db: Queryable,
  projectId: string,
  modelId: string,
): Promise<OperationRow | null> {
  const rows = await db
    .select()
    .from(modelOperations)
    .where(
      and(
        visible(projectId, 'export'),
        eq(modelOperations.modelId, modelId),
        notInArray(modelOperations.status, ['failed']),
      ),
    )
    .limit(1);
  return rows[0] ?? null;
}

/** How many exports of the project run or can be downloaded. */
export function countLiveExports(db: Queryable, projectId: string): Promise<number> {
  const running = notInArray(modelOperations.status, ['failed']);
  return (db as Database['db']).$count(modelOperations, and(visible(projectId, 'export'), running));
}

/** How many imports of the project wait or are checked; those begun over `seconds` ago have nobody who waits for them. */
export function countLiveImports(db: Queryable, projectId: string, seconds: number): Promise<number> {
  const live = inArray(modelOperations.status, ['queued', 'running']);
  const recent = sql`${modelOperations.createdAt} > clock_timestamp() - make_interval(secs => ${seconds})`;
  return (db as Database['db']).$count(modelOperations, and(visible(projectId, 'import'), live, recent));
}

export interface OperationQuery {
  limit: number;
  after?: string;
}

/** One page of exports, newest first. */
export async function listExports(db: Queryable, projectId: string, query: OperationQuery) {
  const conditions: (SQL | undefined)[] = [visible(projectId, 'export')];
  if (query.after !== undefined) {
    conditions.push(sql`(${modelOperations.createdAt}, ${modelOperations.id}) <
      (select o.created_at, o.id from ${modelOperations} o where o.project_id = ${projectId} and o.id = ${query.after})`);
  }
  const rows = await db
    .select()
    .from(modelOperations)
    .where(and(...conditions))
    .orderBy(desc(modelOperations.createdAt), desc(modelOperations.id))
    .limit(query.limit + 1);
  return pageOf(rows, query.limit);
}

/**
 * Takes an operation out of sight: an export is not downloaded any more, a queued one is never begun, and a running one
 * loses its hold. False when the project has no such operation.
 */
export async function endOperation(
  db: Queryable,
  projectId: string,
  kind: OperationKind,
  id: string,
  only: readonly string[] = ['queued', 'running', 'succeeded', 'failed'],
): Promise<boolean> {
  const rows = await db
    .update(modelOperations)
    .set({
      ...{ status: 'expired', workerId: null, leaseUntil: null },
      finishedAt: sql`coalesce(${modelOperations.finishedAt}, clock_timestamp())`,
    })
    .where(
      and(visible(projectId, kind), eq(modelOperations.id, id), inArray(modelOperations.status, [...only])),
    )
    .returning({ id: modelOperations.id });
  return rows.length > 0;
}

/** Ends results past their time, and operations nobody finished. @returns how many */
export async function expireOperations(db: Queryable): Promise<number> {
  const over = await db
    .update(modelOperations)
    .set({ status: 'expired' })
    .where(
      and(eq(modelOperations.status, 'succeeded'), sql`${modelOperations.expiresAt} <= clock_timestamp()`),
    );
  const error = { code: 'worker_crashed', message: 'No worker could finish this operation.', param: null };
  const lost = await db
    .update(modelOperations)
    .set({ status: 'failed', error, finishedAt: sql`clock_timestamp()` })
    .where(
      sql`(${modelOperations.status} = 'running' and ${modelOperations.leaseUntil} < clock_timestamp()
        and ${modelOperations.epoch} >= ${CLAIMS_MAX}) or (${modelOperations.status} = 'queued'
        and ${modelOperations.createdAt} < clock_timestamp() - make_interval(secs => ${WAITING_SECONDS_MAX}))`,
    );
  return (over.rowCount ?? 0) + (lost.rowCount ?? 0);
}

/** Removes rows of operations that ended `seconds` ago. @returns how many */
export async function forgetOperations(db: Queryable, seconds: number): Promise<number> {
  const { rowCount } = await db
    .delete(modelOperations)
    .where(
      and(
        sql`(${modelOperations.status} in ('expired', 'failed') or ${modelOperations.kind} = 'import')`,
        sql`${modelOperations.finishedAt} < clock_timestamp() - make_interval(secs => ${seconds})`,
      ),
    );
  return rowCount ?? 0;
}
