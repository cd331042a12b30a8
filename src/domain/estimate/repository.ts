/** The statements behind estimates: how fast recent trainings of the project were, and what trainers have. */
import { sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';

/** A trainer silent for longer does not count. */
const ALIVE_SECONDS = 15;
const RECENT_JOBS = 5;
const EVENTS_OF_A_JOB = 100;

export interface Throughput {
  tokensPerSecond: number;
  jobs: number;
}

/**
 * Median tokens per second of the steps of the project's last trainings of this kind; null when there are none. The
 * first step of a job is left out: it pays for the start.
 */
export async function recentThroughput(
  db: Queryable,
  projectId: string,
  kind: { model: string; method: string; peftType: string },
): Promise<Throughput | null> {
  const result = await db.execute<{ median: number | null; jobs: number }>(sql`
    with recent as (
      select id from fine_tuning_jobs
      where project_id = ${projectId} and model = ${kind.model} and status = 'succeeded'
        and method ->> 'type' = ${kind.method} and adapter ->> 'peft_type' = ${kind.peftType}
      order by finished_at desc
      limit ${RECENT_JOBS}
    )
    select count(distinct recent.id)::int as jobs,
      percentile_cont(0.5) within group (order by (event.data ->> 'tokens_per_second')::float8) as median
    from recent cross join lateral (
      select data from fine_tuning_job_events
      where project_id = ${projectId} and job_id = recent.id and type = 'metrics'
        and data ? 'tokens_per_second' and (data ->> 'step')::int > 1
      order by seq desc
      limit ${EVENTS_OF_A_JOB}
    ) as event`);
  const row = result.rows[0];
  if (!row || row.median === null) return null;
  return { tokensPerSecond: Number(row.median), jobs: Number(row.jobs) };
}

export interface TrainerDevice {
  device: string;
  /** null where the trainer does not know it. */
  memoryBytes: number | null;
  /** Live trainers that have this. */
  count: number;
}

/** What the live trainers train on, alike ones together. Trainers serve every project. */
export async function trainerDevices(db: Queryable): Promise<TrainerDevice[]> {
  const result = await db.execute<{ device: string; memory_bytes: string | null; count: number }>(sql`
    select device, memory_bytes, count(*)::int as count from workers
    where kind = 'trainer' and state = 'ready'
      and heartbeat_at > clock_timestamp() - make_interval(secs => ${ALIVE_SECONDS})
    group by device, memory_bytes
    order by memory_bytes desc nulls last, device`);
  return result.rows.map((row) => ({
    device: row.device,
    memoryBytes: row.memory_bytes === null ? null : Number(row.memory_bytes),
    count: Number(row.count),
  }));
}
