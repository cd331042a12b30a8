/** Every table that the schema files of src/db declare. */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { is } from 'drizzle-orm';
import { PgTable } from 'drizzle-orm/pg-core';

const folder = path.join(import.meta.dirname, '../../src/db');

export async function allTables(): Promise<PgTable[]> {
  const files = readdirSync(folder).filter((name) => /^schema(-\w+)?\.ts$/.test(name));
  const modules: object[] = await Promise.all(files.map((name) => import(path.join(folder, name))));
  return modules.flatMap((module) => Object.values(module)).filter((value) => is(value, PgTable));
}
