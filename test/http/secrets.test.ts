/**
 * Keys are shown once and kept nowhere: not in the database, the log, an error or a list. And what a revoked key had
 * open ends.
 */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { getTableName, sql } from 'drizzle-orm';
import { beforeAll, describe, expect, it } from 'vitest';
import { createKey, revokeKey } from '../../src/domain/keys/create.ts';
import { BASE_MODEL, TEN_ROWS, useApp } from '../helpers/app.ts';
import { allTables } from '../helpers/tables.ts';
import { adminKeyOf } from './admin-rows.ts';
import { addJob } from './rows.ts';

const t = useApp();
/** The secret part of every key that this file made. */
const secrets: string[] = [];
const answers: string[] = [];
const secretOf = (key: string) => key.slice(-43);

beforeAll(async () => {
  const admin = (await adminKeyOf(t, t.alice)).key;
  secrets.push(secretOf(t.alice.key), secretOf(admin));
  const project = `/v1/organization/projects/${t.alice.projectId}`;
  const headers = { 'idempotency-key': 'a-key' };
  for (const [path, json] of [
    [`${project}/api_keys`, { name: 'k' }],
    [`${project}/service_accounts`, { name: 'robot' }],
    ['/v1/organization/admin_api_keys', { name: 'second' }],
  ] as const) {
    const { json: made } = await t.call('POST', path, { key: admin, json, headers });
    const value: string = made.value ?? made.api_key.value;
    secrets.push(secretOf(value));
    await t.call('GET', '/v1/models', { key: value });
    answers.push((await t.call('GET', `/v1/files/${value}`, { key: `${value.slice(0, -1)}!` })).text);
    answers.push((await t.call('GET', path, { key: admin })).text);
  }
  const training_file = await t.upload(TEN_ROWS);
  await t.call('POST', '/v1/fine_tuning/jobs', { json: { model: BASE_MODEL, training_file }, headers });
  answers.push(
    (await t.call('GET', '/v1/files', { key: null, headers: { authorization: t.alice.key } })).text,
  );
  await t.call('GET', `/v1/files?api_key=${t.alice.key}`);
});

describe('secrets', () => {
  it('are in no table', async () => {
    let dump = '';
    for (const table of await allTables()) {
      const name = sql.identifier(getTableName(table));
      const { rows } = await t.database.db.execute(sql`select to_jsonb(x)::text as row from ${name} x`);
      dump += JSON.stringify(rows);
    }
    expect(dump).toContain('a-key'); // the dump is one
    for (const secret of secrets) expect(dump).not.toContain(secret);
  });

  it('are in no log line, error or list', () => {
    expect(secrets).toHaveLength(5);
    expect(t.logged.length).toBeGreaterThan(10);
    for (const secret of secrets) {
      expect(t.logged.join('')).not.toContain(secret);
      expect(answers.join('')).not.toContain(secret);
    }
  });

  it('of a statement that failed are in no log line, but what failed is', async () => {
    const { db } = t.database;
    await db.execute(sql`alter table webhook_endpoints add constraint refused check (name <> 'refused')`);
    await db.execute(sql`alter table fine_tuning_jobs add constraint refused check (suffix <> 'refused')`);
    const url = 'https://example.com/?token=URL-TOKEN';
    const hook = { name: 'refused', url, event_types: ['batch.failed'] };
    const training_file = await t.upload(TEN_ROWS);
    const metadata = { note: 'NOTE-OF-A-JOB\n    at nowhere' };
    const job = { model: BASE_MODEL, training_file, suffix: 'refused', metadata };
    const from = t.logged.length;
    for (const [to, json] of [
      ['/v1/webhook_endpoints', hook],
      ['/v1/fine_tuning/jobs', job],
    ] as const)
      expect((await t.call('POST', to, { json })).status).toBe(500);
    const lines = t.logged.slice(from).filter((line) => line.includes('request failed'));
    expect(lines).toHaveLength(2);
    for (const line of lines) {
      expect(line).not.toMatch(/URL-TOKEN|whsec_[^[]|NOTE-OF-A-JOB/);
      const { err } = JSON.parse(line);
      expect(err.message).toMatch(/^Failed query: insert into/);
      expect(err.stack).toMatch(/\n {4}at .*\.ts/);
      expect(err.cause).toMatchObject({ code: '23514', constraint: 'refused' });
    }
    const text = await db.execute(sql`select ${'NOTE-OF-A-CAST'}::integer`).catch((error: unknown) => error);
    t.log.error({ err: text }, 'cast');
    expect(t.logged.at(-1)).toContain('invalid input syntax for type integer: \\"[redacted]');
    expect(t.logged.at(-1)).not.toContain('NOTE-OF-A-CAST');
  });

  it('are not kept by an Idempotency-Key: a repeated creation of a key is a second key', async () => {
    const { key } = await adminKeyOf(t, t.alice);
    const make = () =>
      t.call('POST', '/v1/organization/admin_api_keys', {
        ...{ key, json: { name: 'again' }, headers: { 'idempotency-key': 'twice' } },
      });
    expect((await make()).json.value).not.toBe((await make()).json.value);
  });
});

describe('an open stream', () => {
  it('watches its key, in every route that makes one', () => {
    const folder = path.join(import.meta.dirname, '../../src/http/routes');
    const streaming = readdirSync(folder)
      .map((file) => readFileSync(path.join(folder, file), 'utf8'))
      .filter((text) => /\b(event|byte)Stream\(/.test(text));
    expect(streaming.length).toBeGreaterThan(2);
    for (const text of streaming) expect(text).toContain('whileKeyLives(c, deps, ');
  });

  it('ends within seconds when its key is revoked, and only then', async () => {
    const { id, key } = await createKey(t.database, t.alice.projectId, 'follower');
    const job = await addJob(t, t.alice);
    const url = `${await t.serve()}/fine_tuning/jobs/${job}/events?stream=true`;
    const [mine, other] = await Promise.all(
      [key, t.alice.key].map((each) => fetch(url, { headers: { authorization: `Bearer ${each}` } })),
    );
    await revokeKey(t.database, t.alice.projectId, id);
    const started = performance.now();
    expect(await mine!.text()).toContain('Created fine-tuning job');
    expect(performance.now() - started).toBeLessThan(8_000);
    const reader = other!.body!.getReader();
    expect((await reader.read()).done).toBe(false);
    const silent = Promise.race([
      reader.read().then((next) => (next.done ? 'ended' : 'open')),
      new Promise((resolve) => setTimeout(resolve, 1_500, 'open')),
    ]);
    expect(await silent).toBe('open');
    await reader.cancel();
  });
});
