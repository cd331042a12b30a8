/**
 * A database for a test file: a migrated schema of its own on the run's Postgres, dropped when every test passed and
 * kept when one failed (visible with LATHE_TEST_DATABASE_URL, whose server outlives the run).
 */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from 'pg';
import { afterAll, afterEach, beforeAll, inject } from 'vitest';
import { type Database, openDatabase } from '../../src/db/client.ts';
import { migrate } from '../../src/db/migrate.ts';
import { organizations, projects } from '../../src/db/schema.ts';
import { newId } from '../../src/ids.ts';

/** The run's server, started now if nobody asked before. */
async function serverUrl(): Promise<string> {
  const folder = inject('postgresFolder');
  const [url, failed] = [path.join(folder, 'url'), path.join(folder, 'failed')];
  if (!existsSync(url)) writeFileSync(path.join(folder, 'wanted'), '');
  while (!existsSync(url) || readFileSync(url, 'utf8') === '') {
    if (existsSync(failed)) throw new Error(readFileSync(failed, 'utf8'));
    await sleep(20);
  }
  return readFileSync(url, 'utf8');
}

/** A new empty schema and the URL whose search path is that schema. */
export async function createSchema(): Promise<{ url: string; schema: string; drop(): Promise<void> }> {
  const server = await serverUrl();
  const schema = `test_${randomBytes(6).toString('hex')}`;
  await run(server, `create schema ${schema}`);
  const url = new URL(server);
  url.searchParams.set('options', `-c search_path=${schema}`);
  return {
    url: url.href.replaceAll('+', '%20'),
    schema,
    drop: () => run(server, `drop schema ${schema} cascade`),
  };
}

async function run(url: string, statement: string): Promise<void> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}

/** A migrated schema, opened. Close it, then drop it. */
async function createTestDatabase(): Promise<Database & { schema: string; drop(): Promise<void> }> {
  const { url, schema, drop } = await createSchema();
  await migrate(url);
  return { ...openDatabase(url, { connections: 5, name: schema }), schema, drop };
}

/** For a test file: registers the hooks and returns the holder; `database` is there from beforeAll on. */
export function useDatabase(): { database: Database } {
  const holder = {} as { database: Awaited<ReturnType<typeof createTestDatabase>> };
  let failed = false;
  beforeAll(async () => {
    holder.database = await createTestDatabase();
  });
  afterEach(({ task }) => {
    failed ||= task.result?.state === 'fail';
  });
  afterAll(async () => {
    await holder.database?.close();
    if (!failed) await holder.database?.drop();
  });
  return holder;
}

/** An organization with one project, the least a row needs. */
export async function createProject({ db }: Pick<Database, 'db'>, slug = 'acme') {
  const organization = { id: newId('org-'), slug };
  const project = { id: newId('proj_'), name: `${slug} project`, organization };
  await db.insert(organizations).values({ ...organization, name: slug });
  await db.insert(projects).values({ id: project.id, name: project.name, organizationId: organization.id });
  return project;
}
