/** The queue of batches over many of them: whose turn it is, what a claim costs, and how many a project may have open. */
import { sql } from 'drizzle-orm';
import { beforeEach, expect, it } from 'vitest';
import { claimBatch } from '../../src/domain/batches/queue-repository.ts';
import { type Tenant, useApp } from '../helpers/app.ts';
import { addBatch } from './rows.ts';

const t = useApp({ maxOpenBatches: 3 });
beforeEach(() => t.database.db.execute(sql`delete from batches`));

/** `count` open batches of the tenant, the first of them `age` seconds old. */
async function openBatches(tenant: Tenant, count: number, age: number): Promise<void> {
  const file = await t.upload('{}', { purpose: 'batch', filename: 'in.jsonl', key: tenant.key });
  await t.database.db.execute(sql`
    insert into batches (id, project_id, key_id, endpoint, input_file_id, completion_window, status, created_at, expires_at)
    select 'batch_' || ${tenant.organization.slug}::text || i, ${tenant.projectId}, 'key', '/v1/chat/completions', ${file},
      '24h', 'validating', clock_timestamp() + make_interval(secs => i * 0.001 - ${age}),
      clock_timestamp() + interval '1 day'
    from generate_series(1, ${count}::int) i`);
}

it('projects with as few running come first, then the batch that waits longest', async () => {
  await openBatches(t.alice, 4, 60);
  await openBatches(t.bob, 2, 30);
  const claimed: string[] = [];
  for (let i = 0; i < 7; i++) claimed.push((await claimBatch(t.database.db, 'runner', 30))?.id ?? 'none');
  expect(claimed.map((id) => id.replace('batch_', ''))).toEqual([
    ...['acme1', 'umbrella1', 'acme2', 'umbrella2', 'acme3', 'acme4', 'none'],
  ]);
});

it('claims at once do not take the same batch', async () => {
  await openBatches(t.alice, 3, 60);
  const claims = await Promise.all([1, 2, 3, 4].map(() => claimBatch(t.database.db, 'runner', 30)));
  expect(claims.map((hold) => hold?.id ?? 'none').sort()).toEqual([
    ...['batch_acme1', 'batch_acme2', 'batch_acme3', 'none'],
  ]);
});

it('the cost of a claim does not grow with the square of what is open', async () => {
  await openBatches(t.alice, 5000, 60);
  await t.database.db.execute(sql`analyze batches`);
  const times: number[] = [];
  for (let i = 0; i < 5; i++) {
    const start = performance.now();
    expect(await claimBatch(t.database.db, 'runner', 30)).not.toBeNull();
    times.push(performance.now() - start);
  }
  // Some 20 ms; one count for each batch that waits came to seconds.
  expect(Math.min(...times)).toBeLessThan(500);
});

it('a project has so many open at most, however they arrive; one that ends makes room', async () => {
  const answers = await Promise.allSettled(Array.from({ length: 6 }, () => addBatch(t, t.alice)));
  const made = answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []));
  expect(made.length).toBe(3);
  await addBatch(t, t.bob);
  const input_file_id = await t.upload('{}', { purpose: 'batch', filename: 'in.jsonl' });
  const json = { input_file_id, endpoint: '/v1/chat/completions', completion_window: '24h' };
  const create = () => t.call('POST', '/v1/batches', { json });
  const refused = await create();
  expect([refused.status, refused.json.error.code, refused.json.error.type]).toEqual([
    ...[429, 'batch_limit_reached', 'insufficient_quota'],
  ]);
  expect(refused.headers.get('x-should-retry')).toBe('false');
  expect(refused.json.error.message).toContain('already has 3 open batches');
  await t.database.db.execute(sql`update batches set status = 'completed' where id = ${made[0]!}`);
  expect((await create()).status).toBe(200);
});
