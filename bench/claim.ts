/**
 * Claiming from a deep queue on a real Postgres: `depth` jobs wait, among them ones of other models and ones that wait
 * for later, `workers` claim at once. The floor is the same loop on the shallow rest of an emptied queue.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sql } from 'drizzle-orm';
import { type Database, openDatabase } from '../src/db/client.ts';
import { migrate } from '../src/db/migrate.ts';
import { startEmbeddedPostgres } from '../src/embedded/postgres.ts';
import { claim } from '../src/queue/queue.ts';
import { machine, options, quantile, round } from './options.ts';

const MODEL = 'bench';
const SHALLOW = 2_000;

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const o = options(args, { depth: 100_000, claims: 2_000, workers: 8 });
  const home = await mkdtemp(join(tmpdir(), 'lathe-bench-'));
  chmodSync(home, 0o711); // where Postgres runs as another user, it must be able to enter
  const postgres = await startEmbeddedPostgres({ home });
  try {
    await migrate(postgres.url);
    const database = openDatabase(postgres.url, { connections: 4 });
    try {
      await fill(database, o.depth);
      const deep = await claims(postgres.url, o.workers, o.claims);
      await database.db.execute(sql`truncate fine_tuning_jobs cascade`);
      await fill(database, SHALLOW);
      const shallow = await claims(postgres.url, o.workers, Math.min(o.claims, SHALLOW / 2));
      return {
        ...o,
        ...machine(),
        claims_per_second: round(deep.perSecond),
        p50_ms: round(quantile(deep.times, 0.5)),
        p99_ms: round(quantile(deep.times, 0.99)),
        max_ms: round(Math.max(...deep.times)),
        shallow_p99_ms: round(quantile(shallow.times, 0.99)),
        ratio_to_shallow: round(deep.perSecond / shallow.perSecond),
      };
    } finally {
      await database.close();
    }
  } finally {
    await postgres.stop();
    await rm(home, { recursive: true, force: true });
  }
}

/** Every fourth job is of another model, every tenth waits after a crash: a claimer has to pass them by. */
async function fill({ db }: Database, depth: number): Promise<void> {
  const tag = randomBytes(4).toString('hex');
  await db.execute(
    sql`insert into organizations (id, slug, name) values (${`org-${tag}`}, 'bench', 'bench')`,
  );
  await db.execute(
    sql`insert into projects (id, organization_id, name) values (${`proj-${tag}`}, ${`org-${tag}`}, 'bench')`,
  );
  await db.execute(sql`
    insert into files (id, project_id, bytes, filename, purpose, storage_key, sha256)
    values (${`file-${tag}`}, ${`proj-${tag}`}, 1, 'f', 'fine-tune', 'k', 's')`);
  await db.execute(sql`
    insert into fine_tuning_jobs (id, project_id, model, training_file, seed, method, adapter, trainer, status, run_after, created_at)
    select ${`ftjob-${tag}-`} || n, ${`proj-${tag}`}, case when n % 4 = 0 then 'other' else ${MODEL} end, ${`file-${tag}`}, 1,
      '{"type":"supervised"}', '{}', '{}', case when n % 2 = 0 then 'queued' else 'validating_files' end,
      clock_timestamp() + case when n % 10 = 1 then interval '1 hour' else interval '0' end,
      clock_timestamp() - (${depth} - n) * interval '1 second'
    from generate_series(1, ${depth}) n`);
}

async function claims(url: string, workers: number, total: number) {
  const times: number[] = [];
  const databases = Array.from({ length: workers }, () => openDatabase(url, { connections: 1 }));
  const started = performance.now();
  await Promise.all(
    databases.map(async (database, n) => {
      while (times.length < total) {
        const sent = performance.now();
        const fence = await claim(database, `worker-${n}`, [MODEL], 30);
        if (!fence) throw new Error('the queue is empty');
        times.push(performance.now() - sent);
      }
    }),
  );
  const perSecond = times.length / ((performance.now() - started) / 1000);
  await Promise.all(databases.map((database) => database.close()));
  return { times, perSecond };
}
