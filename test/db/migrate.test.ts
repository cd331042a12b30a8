/** Migrations: once, twice, from many processes at the same time; and that they give the schema the code expects. */
import { getTableColumns, getTableName } from 'drizzle-orm';
import { Client } from 'pg';
import { describe, expect, it, vi } from 'vitest';
import { openDatabase } from '../../src/db/client.ts';
import { migrate } from '../../src/db/migrate.ts';
import { createSchema } from '../helpers/database.ts';
import { allTables } from '../helpers/tables.ts';

async function rows<T>(url: string, text: string): Promise<T[]> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(text)).rows as T[];
  } finally {
    await client.end();
  }
}

describe('migrate', () => {
  it('may run in several processes at once and again later', async () => {
    const { url, drop } = await createSchema();
    await Promise.all(Array.from({ length: 4 }, () => migrate(url)));
    const applied = await rows<{ hash: string }>(url, 'select hash from lathe_migrations order by id');
    expect(new Set(applied.map((row) => row.hash)).size).toBe(applied.length);
    await migrate(url);
    expect(await rows(url, 'select hash from lathe_migrations order by id')).toEqual(applied);
    await drop();
  });

  it('creates every table with every column that src/db declares, in the first schema of the search path', async () => {
    const { url, schema: name, drop } = await createSchema();
    await migrate(url);
    const found = await rows<{ at: string }>(
      url,
      `select table_name || '.' || column_name as at from information_schema.columns where table_schema = '${name}'`,
    );
    const columns = new Set(found.map((row) => row.at));
    const tables = await allTables();
    const missing = tables
      .flatMap((table) =>
        Object.values(getTableColumns(table)).map((c) => `${getTableName(table)}.${c.name}`),
      )
      .filter((column) => !columns.has(column));
    expect(tables.length).toBeGreaterThan(20);
    expect(missing).toEqual([]);
    await drop();
  });

  it('does nothing half: a database without a schema to write to is refused', async () => {
    const { url, drop } = await createSchema();
    const nowhere = new URL(url);
    nowhere.searchParams.set('options', '-c search_path=does_not_exist');
    await expect(migrate(nowhere.href.replaceAll('+', '%20'))).rejects.toThrow('search_path is empty');
    await drop();
  });
});

describe('the pools', () => {
  it('keep two connections for leases when every other one is busy', async () => {
    const { url, drop } = await createSchema();
    const database = openDatabase(url, { connections: 2 });
    const busy = [1, 2].map(() => database.pool.query('select pg_sleep(1)'));
    const start = performance.now();
    await database.leases.execute('select 1');
    expect(performance.now() - start).toBeLessThan(800);
    await Promise.all(busy);
    await database.close();
    await drop();
  });

  it('roll a transaction back when its work throws', async () => {
    const { url, drop } = await createSchema();
    const database = openDatabase(url);
    await database.pool.query('create table t (n int)');
    const work = database.transaction(async (tx) => {
      await tx.execute('insert into t values (1)');
      throw new Error('changed my mind');
    });
    await expect(work).rejects.toThrow('changed my mind');
    expect((await database.pool.query('select * from t')).rowCount).toBe(0);
    await database.close();
    await drop();
  });

  it('outlive a connection that breaks inside a transaction, at any point, without losing its place', async () => {
    const { url, drop } = await createSchema();
    const errors: Error[] = [];
    const database = openDatabase(url, { connections: 1, onConnectionError: (error) => errors.push(error) });
    const work = database.transaction(async (tx) => {
      const { rows: found } = await tx.execute<{ pid: number }>('select pg_backend_pid() as pid');
      await rows(url, `select pg_terminate_backend(${found[0]!.pid})`);
      await expect.poll(() => errors.length).toBeGreaterThan(0); // no query runs: nobody but the listener hears it
      await tx.execute('select 1');
    });
    await expect(work).rejects.toThrow();
    // `begin` is the query that meets the broken connection.
    const query = vi
      .spyOn(Client.prototype, 'query')
      .mockImplementationOnce(() => Promise.reject(new Error('broken')));
    await expect(database.transaction(async () => {})).rejects.toThrow('begin');
    query.mockRestore();
    expect(await database.transaction(async () => 'here')).toBe('here');
    await database.close();
    await drop();
  });

  it('report a connection the server closed and go on with a new one', async () => {
    const { url, drop } = await createSchema();
    const errors: Error[] = [];
    const database = openDatabase(url, { connections: 1, onConnectionError: (error) => errors.push(error) });
    const { rows: found } = await database.pool.query<{ pid: number }>('select pg_backend_pid() as pid');
    await rows(url, `select pg_terminate_backend(${found[0]!.pid})`);
    await expect.poll(() => errors.length).toBe(1);
    expect((await database.pool.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
    await database.close();
    await drop();
  });
});
