/**
 * The statements of the outbox: take what is due, note how it went. The service as a whole delivers, so these name a
 * project only by carrying it along from the row; nothing of it is shown to anybody.
 */
import { sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';

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

/** Deliveries of one endpoint that are under way at once: a dead receiver must not hold up the others. */
const PER_ENDPOINT = 4;

/**
 * Takes up to `limit` due deliveries, each for `leaseSeconds`: when this process dies, they come due again. What belongs
 * to a deleted or disabled endpoint is given up.
 */
export async function takeDue(db: Queryable, limit: number, leaseSeconds: number): Promise<DueDelivery[]> {
  const { rows } = await db.execute<DueDelivery>(sql`
    with due as (
      select d.id from webhook_endpoints e cross join lateral (
        select id, next_attempt_at from webhook_deliveries
        where endpoint_id = e.id and delivered_at is null and abandoned_at is null
          and next_attempt_at <= clock_timestamp()
        order by next_attempt_at limit ${PER_ENDPOINT} for update skip locked) d
      order by d.next_attempt_at limit ${limit}
    )
    update webhook_deliveries d set attempts = d.attempts + 1,
      next_attempt_at = clock_timestamp() + make_interval(secs => ${leaseSeconds}),
      abandoned_at = case when e.deleted_at is null and e.disabled_at is null then null else clock_timestamp() end
    from due, webhook_endpoints e where d.id = due.id and e.id = d.endpoint_id
    returning d.id, d.event_id, d.body, d.attempts, d.endpoint_id, e.url, e.secret,
      extract(epoch from clock_timestamp() - d.created_at)::float8 as age_seconds,
      case when e.old_secret_until > clock_timestamp() then e.old_secret end as old_secret,
      d.abandoned_at is not null as abandoned`);
  return rows.filter((row) => !(row as { abandoned?: boolean }).abandoned);
}

export async function markDelivered(db: Queryable, delivery: DueDelivery, status: number): Promise<void> {
  await db.execute(sql`
    update webhook_deliveries set delivered_at = clock_timestamp(), last_status = ${status}, last_error = null
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
    update webhook_deliveries set last_status = ${failure.status}::integer, last_error = ${failure.error}::text,
      next_attempt_at = clock_timestamp() + make_interval(secs => ${waitSeconds ?? 0}::double precision),
      abandoned_at = case when ${waitSeconds === null} then clock_timestamp() end
    where id = ${delivery.id} and attempts = ${delivery.attempts}`);
  await db.execute(sql`
    update webhook_endpoints set failing_since = coalesce(failing_since, clock_timestamp()),
      disabled_at = case when failing_since < clock_timestamp() - make_interval(secs => ${disableAfterSeconds}::double precision)
        then clock_timestamp() else disabled_at end
    where id = ${delivery.endpoint_id} and disabled_at is null`);
}

/** Removes what was delivered or given up more than `seconds` ago. @returns how many */
export async function removeEnded(db: Queryable, seconds: number): Promise<number> {
  const { rowCount } = await db.execute(sql`
    delete from webhook_deliveries where (delivered_at is not null or abandoned_at is not null)
      and created_at < clock_timestamp() - make_interval(secs => ${seconds}::double precision)`);
  return rowCount ?? 0;
}
