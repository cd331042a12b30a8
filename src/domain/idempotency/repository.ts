/**
 * The statements about idempotency keys. Every one names the project (or, for admin keys, the organization); those of
 * the holder also name the holder, so one that was given up changes nothing any more.
 */
import { and, eq, sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { idempotencyKeys as keys } from '../../db/schema-tenancy.ts';

export interface Held {
  projectId: string;
  key: string;
  holder: string;
}

export interface NewHold extends Held {
  fingerprint: string;
  seed: string;
  holdSeconds: number;
  keepSeconds: number;
  /** Begins anew, unless somebody is at work under the key. */
  anew: boolean;
}

/**
 * Takes the key when it is free, past its end, or left by a holder that is gone; then the seed is returned, the dead
 * holder's where there was one. Null when somebody else has it.
 */
export async function holdKey(db: Queryable, hold: NewHold): Promise<string | null> {
  const now = sql`clock_timestamp()`;
  const heldUntil = sql`${now} + make_interval(secs => ${hold.holdSeconds})`;
  const expiresAt = sql`${now} + make_interval(secs => ${hold.keepSeconds})`;
  const idle = sql`(${keys.status} is not null or ${keys.heldUntil} <= ${now})`;
  const past = sql`(${keys.expiresAt} <= ${now} or (${hold.anew} and ${idle}))`;
  const left = sql`(${keys.status} is null and ${keys.heldUntil} <= ${now} and ${keys.fingerprint} = excluded.fingerprint)`;
  const { projectId, key, holder, fingerprint, seed } = hold;
  const rows = await db
    .insert(keys)
    .values({ projectId, key, holder, fingerprint, seed, heldUntil, expiresAt })
    .onConflictDoUpdate({
      target: [keys.projectId, keys.key],
      set: {
        holder: sql`excluded.holder`,
        fingerprint: sql`excluded.fingerprint`,
        seed: sql`case when ${past} then excluded.seed else ${keys.seed} end`,
        heldUntil: sql`excluded.held_until`,
        expiresAt: sql`excluded.expires_at`,
        status: null,
        body: null,
        createdAt: now,
      },
      setWhere: sql`${past} or ${left}`,
    })
    .returning({ seed: keys.seed });
  return rows[0]?.seed ?? null;
}

/** What stands under the key, or null when it is gone. */
export async function findKey(db: Queryable, projectId: string, key: string) {
  const rows = await db
    .select({ fingerprint: keys.fingerprint, status: keys.status, body: keys.body })
    .from(keys)
    .where(and(eq(keys.projectId, projectId), eq(keys.key, key)));
  return rows[0] ?? null;
}

const mine = ({ projectId, key, holder }: Held) =>
  and(eq(keys.projectId, projectId), eq(keys.key, key), eq(keys.holder, holder));

/** Holds on for `seconds` from now; 0 leaves it to the next who comes with the same request. */
export async function renewHold(db: Queryable, held: Held, seconds: number): Promise<void> {
  const heldUntil = sql`clock_timestamp() + make_interval(secs => ${seconds})`;
  await db.update(keys).set({ heldUntil }).where(mine(held));
}

export async function storeAnswer(db: Queryable, held: Held, status: number, body: string): Promise<void> {
  await db.update(keys).set({ status, body, heldUntil: null }).where(mine(held));
}

export async function forgetKey(db: Queryable, held: Held): Promise<void> {
  await db.delete(keys).where(mine(held));
}

const SWEPT_AT_ONCE = 1000;

/** Deletes keys past their end, of every project; the number deleted. */
export async function deleteExpiredKeys(db: Queryable): Promise<number> {
  for (let deleted = 0; ; ) {
    const result = await db.execute(
      sql`delete from ${keys} where (${keys.projectId}, ${keys.key}) in
        (select k.project_id, k.key from ${keys} k where k.expires_at <= clock_timestamp() limit ${SWEPT_AT_ONCE})`,
    );
    deleted += result.rowCount ?? 0;
    if ((result.rowCount ?? 0) < SWEPT_AT_ONCE) return deleted;
  }
}
