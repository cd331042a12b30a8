/**
 * Who runs Postgres and where its files lie. Postgres refuses root, so root lends it another account; that account must
 * be able to reach the folder, and when it cannot (a project in a 0700 home) the files go to /var/lib/lathe instead.
 */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';

export interface Account {
  /** Spread into spawn's options; empty when Postgres runs as ourselves. */
  spawn: { uid?: number; gid?: number };
}

export interface Place {
  account: Account;
  /** Folder (real path) of data, log and password. */
  folder: string;
  /** Folder for a copy of the programs, should the account need one. */
  copies: string;
  /** One line for the user when the files are not under the home folder. */
  note: string | null;
}

const FALLBACK = '/var/lib/lathe';

/** Decides account and folder for `home` and makes the folder. Throws a sentence when there is no such place. */
export function choosePlace(home: string): Place {
  const wanted = path.join(home, 'postgres');
  makeFolder(home, 0o711);
  makeFolder(wanted, 0o711);
  if (process.getuid?.() !== 0) return place({ spawn: {} }, wanted, wanted, null);

  const account: Account = { spawn: accountOf(wanted) };
  const movedBefore = existsSync(path.join(wanted, 'place'));
  if (!movedBefore && canReach(account, wanted)) return place(account, wanted, wanted, null);
  const folder = path.join(FALLBACK, fallbackName(wanted));
  makeFolder(FALLBACK, 0o755);
  makeFolder(folder, 0o711);
  writeFileSync(path.join(folder, 'home'), `${home}\n`); // for whoever wonders what may be deleted here
  if (!canReach(account, folder)) {
    throw new Error(
      `Postgres does not run as root, and the account that runs it (uid ${account.spawn.uid}) reaches neither ${home} ` +
        `nor ${FALLBACK}. Set LATHE_HOME to a folder it can reach, or DATABASE_URL to a Postgres of your own.`,
    );
  }
  const note =
    `Postgres does not run as root, and its account (uid ${account.spawn.uid}) cannot reach ${home}: ` +
    `the database is in ${folder}.`;
  return place(account, folder, FALLBACK, note);
}

function place(account: Account, folder: string, copies: string, note: string | null): Place {
  return { account, folder: realpathSync(folder), copies, note };
}

/** The folder that choosePlace made for `home` earlier, or null; makes nothing. */
export function existingFolder(home: string): string | null {
  const wanted = path.join(home, 'postgres');
  const elsewhere = path.join(wanted, 'place');
  const folder = existsSync(elsewhere) ? path.join(FALLBACK, readFileSync(elsewhere, 'utf8').trim()) : wanted;
  return existsSync(path.join(folder, 'data')) ? realpathSync(folder) : null;
}

/** The owner of an existing data folder, else the account `postgres`, else `nobody`. */
function accountOf(wanted: string): { uid: number; gid: number } {
  const data = path.join(wanted, 'data');
  if (existsSync(data)) {
    const { uid, gid } = statSync(data);
    if (uid !== 0) return { uid, gid };
  }
  const accounts = readFileSync('/etc/passwd', 'utf8').split('\n');
  for (const name of ['postgres', 'nobody']) {
    const fields = accounts.find((line) => line.startsWith(`${name}:`))?.split(':');
    if (fields?.[2] && fields[3]) return { uid: Number(fields[2]), gid: Number(fields[3]) };
  }
  throw new Error(
    'Postgres does not run as root, and /etc/passwd has no account postgres or nobody to run it as.',
  );
}

/** Asks the system instead of reading modes, which know nothing of ACLs or mount options. */
function canReach(account: Account, folder: string): boolean {
  const answer = spawnSync('/bin/sh', ['-c', 'cd "$1" && cd / && test -x "$1"', 'sh', folder], {
    cwd: '/',
    env: {},
    stdio: 'ignore',
    ...account.spawn,
  });
  return answer.status === 0;
}

/**
 * The folder's name under /var/lib/lathe. It is random and kept in the home folder, so that a new home at an old path
 * never meets the database of the one that was there before.
 */
function fallbackName(wanted: string): string {
  const file = path.join(wanted, 'place');
  if (existsSync(file)) return readFileSync(file, 'utf8').trim();
  const name = randomBytes(8).toString('hex');
  writeFileSync(file, `${name}\n`, { mode: 0o600, flag: 'wx' });
  return name;
}

/**
 * Makes `folder` (an absolute path) and what is missing above it with exactly this mode, whatever the umask; a folder
 * that is there keeps its mode. Throws a sentence.
 */
export function makeFolder(folder: string, mode: number): void {
  try {
    const first = mkdirSync(folder, { recursive: true, mode });
    if (first === undefined) return;
    for (let at = folder; at.length >= first.length; at = path.dirname(at)) chmodSync(at, mode);
  } catch (cause) {
    throw new Error(`Cannot make the folder ${folder}: ${(cause as Error).message}`, { cause });
  }
}

/** Makes a folder that only the account may enter. */
export function makePrivateFolder(folder: string, account: Account): void {
  mkdirSync(folder, { mode: 0o700 });
  if (account.spawn.uid !== undefined)
    chownSync(folder, account.spawn.uid, account.spawn.gid ?? account.spawn.uid);
}
