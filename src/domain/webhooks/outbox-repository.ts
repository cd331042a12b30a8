/**
 * The statements of the outbox: take what is due, note how it went. The service as a whole delivers, so these name a
 * project only by carrying it along from the row; nothing of it is shown to anybody.
 */
import { type SQL, sql } from 'drizzle-orm';
import type { Database, Queryable } from '../../db/client.ts';

/** A delivery taken for one attempt; `attempts` fences what is written about it. */
export type DueDelivery = {
  id: string;
  event_id: string;
  body: string;
  attempts: number;
  age_seconds: number;
  url: string;
  endpoint_id: string;
  secret: string;
  old_secret: string | null;
};

/** Attempts under way at once over all processes: a dead receiver holds up neither its project nor the others. */
const PER_ENDPOINT = 4;
const PER_PROJECT = 8;

const OPEN = sql`delivered_at is null and abandoned_at is null`;
const ENDED = sql`(delivered_at is not null or abandoned_at is not null)`;

/**
 * Takes up to `limit` due deliveries, each for `leaseSeconds`: when this process dies, they come due again. Who has the
 * fewest under way is next, and nobody gets more than the share above.
 */
export async function takeDue(
  database: Pick<Database, 'transaction'>,
  limit: number,
  leaseSeconds: number,
): Promise<DueDelivery[]> {
  return database.transaction(async (tx) => {
    // Two takes at once would not see each other's shares.
    await tx.execute(
      sql`select pg_advisory_xact_lock(hashtextextended('lathe webhooks ' || current_schema(), 0))`,
    );
    const { rows } = await tx.execute<DueDelivery>(takeStatement(limit, leaseSeconds));
    return rows;
  });
}

const takeStatement = (limit: number, leaseSeconds: number) => sql`
  with busy as (
    select project_id, endpoint_id, count(*)::integer as attempts from webhook_deliveries
    where taken_until > clock_timestamp() and ${OPEN} group by project_id, endpoint_id
  ), due as (
    select d.id, e.project_id, d.next_attempt_at from webhook_endpoints e
    left join busy on busy.endpoint_id = e.id
    cross join lateral (
      select id, next_attempt_at from webhook_deliveries
      where endpoint_id = e.id and ${OPEN} and next_attempt_at <= clock_timestamp()
      order by next_attempt_at limit greatest(0, ${PER_ENDPOINT} - coalesce(busy.attempts, 0))) d
    where e.deleted_at is null and e.disabled_at is null
  ), ranked as (
    select due.id, due.next_attempt_at, coalesce(p.attempts, 0)
      + row_number() over (partition by due.project_id order by due.next_attempt_at, due.id) as share
    from due left join (select project_id, sum(attempts) as attempts from busy group by project_id) p
      on p.project_id = due.project_id
  ), taken as (
    select d.id from ranked r join webhook_deliveries d on d.id = r.id where r.share <= ${PER_PROJECT}
    order by r.share, r.next_attempt_at limit ${limit} for update of d skip locked
  ), held as (
    select clock_timestamp() + make_interval(secs => ${leaseSeconds}) as until
  )
  update webhook_deliveries d set attempts = d.attempts + 1, next_attempt_at = held.until, taken_until = held.until
  from taken, held, webhook_endpoints e where d.id = taken.id and e.id = d.endpoint_id
  returning d.id, d.event_id, d.body, d.attempts, d.endpoint_id, e.url, e.secret,
    extract(epoch from clock_timestamp() - d.created_at)::float8 as age_seconds,
    case when e.old_secret_until > clock_timestamp() then e.old_secret end as old_secret`;

/** Gives up what waits for endpoints that are deleted or switched off. */
export async function abandonUnwanted(db: Queryable): Promise<void> {
  await db.execute(sql`
    update webhook_deliveries d set abandoned_at = clock_timestamp() from webhook_endpoints e
    where e.id = d.endpoint_id and d.delivered_at is null and d.abandoned_at is null
      and d.next_attempt_at <= clock_timestamp() and (e.deleted_at is not null or e.disabled_at is not null)`);
}

export async function markDelivered(db: Queryable, delivery: DueDelivery, status: number): Promise<void> {
  await db.execute(sql`
    update webhook_deliveries set delivered_at = clock_timestamp(), taken_until = null, last_status = ${status}, last_error = null
    where id = ${delivery.id} and attempts = ${delivery.attempts}`);
  await db.execute(sql`
    update webhook_endpoints set failing_since = null where id = ${delivery.endpoint_id} and failing_since is not null`);
}

/** Notes a failure: another attempt in `waitSeconds`, or none (null). Endpoints that fail for long are switched off. */
export async function markFailed(
  db: Queryable,
  delivery: DueDelivery,
  failure: { status: number | null; error: string | null },
  waitSeconds: number | null,
  disableAfterSeconds: number,
): Promise<void> {
  await db.execute(sql`
    update webhook_deliveries set taken_until = null, last_status = ${failure.status}::integer, last_error = ${failure.error}::text,
      next_attempt_at = clock_timestamp() + make_interval(secs => ${waitSeconds ?? 0}::double precision),
      abandoned_at = case when ${waitSeconds === null} then clock_timestamp() end
    where id = ${delivery.id} and attempts = ${delivery.attempts}`);
  await db.execute(sql`
    update webhook_endpoints set failing_since = coalesce(failing_since, clock_timestamp()),
      disabled_at = case when failing_since < clock_timestamp() - make_interval(secs => ${disableAfterSeconds}::double precision)
        then clock_timestamp() else disabled_at end
    where id = ${delivery.endpoint_id} and disabled_at is null`);
}

/** What was given up to make room: how many, and when the oldest and the newest of them were made. */
export type Dropped = { project_id: string; deliveries: number; oldest: Date; newest: Date };

/**
 * Gives up the oldest waiting deliveries of projects that have more than `max`; those under way stay. The rows remain
 * for as long as other ended ones, and say why.
 */
export async function dropBeyond(db: Queryable, max: number): Promise<Dropped[]> {
  const why = `dropped: more than ${max} deliveries of the project waited`;
  const all: Dropped[] = [];
  for (const { project_id, made, id } of await newestBeyond(db, OPEN, max)) {
    const { rows } = await db.execute<Dropped>(sql`
      with dropped as (
        update webhook_deliveries set abandoned_at = clock_timestamp(), last_error = ${why}
        where project_id = ${project_id} and ${OPEN} and (created_at, id) <= (${made}::timestamptz, ${id})
          and (taken_until is null or taken_until <= clock_timestamp())
        returning project_id, created_at
      )
      select project_id, count(*)::integer as deliveries, min(created_at) as oldest, max(created_at) as newest
      from dropped group by project_id`);
    all.push(...rows.map((row) => ({ ...row, oldest: new Date(row.oldest), newest: new Date(row.newest) })));
  }
  return all;
}

/** Removes what was delivered or given up more than `seconds` ago, and of each project all but the newest `keep`. @returns how many */
export async function removeEnded(db: Queryable, seconds: number, keep: number): Promise<number> {
  const old = await db.execute(sql`
    delete from webhook_deliveries where ${ENDED}
      and created_at < clock_timestamp() - make_interval(secs => ${seconds}::double precision)`);
  let removed = old.rowCount ?? 0;
  if (keep === 0) return removed;
  for (const { project_id, made, id } of await newestBeyond(db, ENDED, keep)) {
    const { rowCount } = await db.execute(sql`
      delete from webhook_deliveries where project_id = ${project_id} and ${ENDED}
        and (created_at, id) <= (${made}::timestamptz, ${id})`);
    removed += rowCount ?? 0;
  }
  return removed;
}

type Place = { project_id: string; made: string; id: string };

/**
 * For each project with more than `max` such deliveries the newest of those beyond. Counted first: a window or a lateral
 * join over all projects sorts the whole table for every one of them when there are no statistics yet.
 */
async function newestBeyond(db: Queryable, such: SQL, max: number): Promise<Place[]> {
  const { rows } = await db.execute<{ project_id: string }>(sql`
    select project_id from webhook_deliveries where ${such} group by project_id having count(*) > ${max}`);
  const places: Place[] = [];
  for (const { project_id } of rows) {
    const found = await db.execute<Place>(sql`
      select project_id, created_at::text as made, id from webhook_deliveries where project_id = ${project_id} and ${such}
      order by created_at desc, id desc offset ${max} limit 1`);
    places.push(...found.rows);
  }
  return places;
}
