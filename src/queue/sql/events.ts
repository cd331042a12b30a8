/** Statements that tell what happens to a job: its events, its progress, the values in force and its error. */
import { sql } from 'drizzle-orm';
import type { Queryable } from '../../db/client.ts';
import { newId } from '../../ids.ts';
import { type Fence, held, json, LeaseLost, seconds } from './fence.ts';

export interface NewEvent {
  /** Made by the writer, so that a repeated write adds nothing. */
  id: string;
  level: 'info' | 'warn' | 'error';
  type: 'message' | 'metrics';
  message: string;
  data: Record<string, unknown>;
}

export interface ProgressUpdate {
  progress?: { step: number; total_steps: number; epoch: number };
  trainedTokens?: number;
  /** Seconds from now. */
  finishInSeconds?: number | null;
}

/** Postgres stores neither NUL nor half a surrogate pair; both may come out of a user's file. */
const storable = (text: string): string => text.replaceAll('\u0000', '\uFFFD').toWellFormed();

export function message(
  level: NewEvent['level'],
  text: string,
  data: Record<string, unknown> = {},
): NewEvent {
  return { id: newId('ftevent-'), level, type: 'message', message: storable(text), data };
}

export function metrics(text: string, data: Record<string, unknown>): NewEvent {
  return { id: newId('ftevent-'), level: 'info', type: 'metrics', message: text, data };
}

/**
 * Appends events and progress in one statement: `seq` comes from the job row, so it has no gaps, and an event that is
 * already there (a write whose answer was lost) is left out of the count. With a fence: @throws LeaseLost.
 */
export async function insertEvents(
  db: Queryable,
  target: Fence | { jobId: string },
  events: readonly NewEvent[],
  update: ProgressUpdate = {},
): Promise<void> {
  const fence = 'epoch' in target ? target : null;
  const finish =
    update.finishInSeconds == null ? sql`null` : sql`clock_timestamp() + ${seconds(update.finishInSeconds)}`;
  const { rows } = await db.execute<{ jobs: number }>(sql`
    with fresh as (
      select e.*, row_number() over (order by e.nr) as n
      from jsonb_to_recordset(${json(events.map((event, nr) => ({ nr, ...event })))})
        as e(nr integer, id text, level text, type text, message text, data jsonb)
      where not exists (select 1 from fine_tuning_job_events old where old.id = e.id)
    ), job as (
      update fine_tuning_jobs set event_seq = event_seq + (select count(*) from fresh),
        progress = coalesce(${update.progress ? json(update.progress) : sql`null::jsonb`}, progress),
        trained_tokens = coalesce(${update.trainedTokens ?? null}::bigint, trained_tokens),
        estimated_finish = ${update.finishInSeconds === undefined ? sql`estimated_finish` : finish}
      where ${fence ? held(fence) : sql`id = ${target.jobId}`}
      returning id, project_id, event_seq
    ), written as (
      insert into fine_tuning_job_events (id, project_id, job_id, seq, level, type, message, data)
      select f.id, job.project_id, job.id, job.event_seq - (select count(*) from fresh) + f.n,
        f.level, f.type, f.message, f.data
      from fresh f, job
    )
    select count(*)::integer as jobs from job`);
  if (rows[0]!.jobs === 0) {
    if (fence) throw new LeaseLost(fence);
    throw new Error(`there is no job ${target.jobId}`);
  }
}

/** Writes the values that "auto" became. @throws LeaseLost */
export async function updateSettings(
  db: Queryable,
  fence: Fence,
  settings: { method: unknown; adapter: unknown; trainer: unknown },
): Promise<void> {
  const { rowCount } = await db.execute(sql`
    update fine_tuning_jobs set method = ${json(settings.method)}, adapter = ${json(settings.adapter)},
      trainer = ${json(settings.trainer)} where ${held(fence)}`);
  if (rowCount === 0) throw new LeaseLost(fence);
}

/** Notes which files of the base model the job trains on, instead of those noted before. @throws LeaseLost */
export async function updateBaseDigest(db: Queryable, fence: Fence, digest: string): Promise<void> {
  const { rowCount } = await db.execute(sql`
    update fine_tuning_jobs set base_digest = ${digest} where ${held(fence)}`);
  if (rowCount === 0) throw new LeaseLost(fence);
}

/** What the job's `error` shows. */
export interface JobError {
  code: string;
  message: string;
  param: string | null;
}

export async function updateError(tx: Queryable, fence: Fence, error: JobError): Promise<void> {
  const clean = { ...error, message: storable(error.message) };
  await tx.execute(sql`update fine_tuning_jobs set error = ${json(clean)} where ${held(fence)}`);
}
