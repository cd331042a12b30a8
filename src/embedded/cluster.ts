/**
 * What lies on disk for the embedded Postgres, before any server runs: the data folder, its password and its last port.
 */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chownSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';
import { Client } from 'pg';
import { type Account, makePrivateFolder, type Place } from './account.ts';
import type { Binaries } from './binaries.ts';

const SUPERUSER = 'lathe';
const DATABASE = 'lathe';
/** Start of the names of clusters in the making; one left behind by a kill is removed. */
const STAGING = 'new-';

/**
 * Creates a new cluster, with a new password, beside its final place and moves it there: a half-made one is never
 * mistaken for data. Throws with initdb's words.
 */
export function initialize(place: Place, binaries: Binaries, data: string): void {
  for (const name of readdirSync(place.folder)) {
    if (name.startsWith(STAGING)) rmSync(path.join(place.folder, name), { recursive: true, force: true });
  }
  const password = randomBytes(24).toString('hex');
  writeFileSync(path.join(place.folder, 'password'), `${password}\n`, { mode: 0o600, flush: true });
  const staging = path.join(place.folder, STAGING + randomBytes(6).toString('hex'));
  makePrivateFolder(staging, place.account);
  const passwordFile = path.join(staging, 'password');
  writeOwned(passwordFile, password, place.account);
  try {
    const answer = spawnSync(
      binaries.initdb,
      [
        `--pgdata=${path.join(staging, 'data')}`,
        `--username=${SUPERUSER}`,
        `--pwfile=${passwordFile}`,
        '--auth=scram-sha-256',
        '--encoding=UTF8',
        '--locale-provider=builtin',
        '--locale=C.UTF-8',
        '--no-instructions',
      ],
      { cwd: staging, env: { LC_ALL: 'C', TZ: 'UTC' }, encoding: 'utf8', ...place.account.spawn },
    );
    if (answer.status !== 0) {
      const reason = answer.error?.message ?? `${answer.stdout}\n${answer.stderr}`.trim();
      throw new Error(`initdb could not create ${data}: ${reason}`);
    }
    renameSync(path.join(staging, 'data'), data);
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

/** Refuses data of another major version, which this server could not read. */
export function checkVersion(data: string, binaries: Binaries): void {
  const file = path.join(data, 'PG_VERSION');
  let found: string;
  try {
    found = readFileSync(file, 'utf8').trim();
  } catch (cause) {
    throw new Error(`Cannot read the database in ${data}: ${(cause as Error).message}`, { cause });
  }
  if (found !== binaries.major) {
    throw new Error(
      `The database in ${data} was made by Postgres ${found}, but this version of Lathe brings Postgres ` +
        `${binaries.major}. Dump and restore it, or set DATABASE_URL.`,
    );
  }
}

/** Connects (so the server is known to answer) and creates our database on the first start. */
export async function prepareDatabase(port: number, password: string): Promise<void> {
  const client = new Client({
    connectionString: urlOf(port, password, 'postgres'),
    connectionTimeoutMillis: 10_000,
  });
  client.on('error', () => {}); // reported by the query that meets it
  await client.connect();
  try {
    const found = await client.query('select 1 from pg_database where datname = $1', [DATABASE]);
    if (found.rowCount === 0) await client.query(`create database ${DATABASE}`);
  } finally {
    await client.end();
  }
}

/** Connection URL of our database (or another one) on the server at `port`. */
export function urlOf(port: number, password: string, database = DATABASE): string {
  return `postgres://${SUPERUSER}:${password}@127.0.0.1:${port}/${database}`;
}

/** The superuser's password. Throws when the file is gone or unreadable. */
export function readPassword(folder: string): string {
  const file = path.join(folder, 'password');
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (cause) {
    throw new Error(`Cannot read the database's password: ${(cause as Error).message}`, { cause });
  }
}

function writeOwned(file: string, text: string, account: Account): void {
  writeFileSync(file, text, { mode: 0o600 });
  if (account.spawn.uid === undefined) return;
  chownSync(file, account.spawn.uid, account.spawn.gid ?? account.spawn.uid);
}

/** The port of the last start: kept where possible, so that a URL noted by a person or a worker stays right. */
export function lastPort(folder: string): number {
  const file = path.join(folder, 'port');
  const port = existsSync(file) ? Number(readFileSync(file, 'utf8')) : 0;
  return Number.isInteger(port) && port > 0 && port < 65536 ? port : 0;
}

/** Remembers the port for the next start. */
export function savePort(folder: string, port: number): void {
  writeFileSync(path.join(folder, 'port'), String(port));
}

/** `wanted` when it is free, any free port otherwise. */
export async function choosePort(wanted: number): Promise<number> {
  return (wanted === 0 ? null : await portIfFree(wanted)) ?? (await portIfFree(0)) ?? wanted;
}

function portIfFree(port: number): Promise<number | null> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(null));
    server.listen(port, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(address && typeof address === 'object' ? address.port : null));
    });
  });
}
