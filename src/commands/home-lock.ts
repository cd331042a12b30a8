/**
 * One service per LATHE_HOME: a lock file that says who runs and where. A lock left by a killed process is recognised
 * by the process's birth time, not by its pid alone, and taken over.
 */
import { randomBytes } from 'node:crypto';
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { ConfigError } from '../config.ts';
import { makeFolder } from '../embedded/account.ts';
import { processBirth } from '../embedded/processes.ts';

export interface Holder {
  pid: number;
  birth: string | null;
  /** What holds the home: `up`, or a command that needs the database for a moment. */
  command: string;
  startedAt: string;
  /** Address of the API once it listens. */
  url: string | null;
}

export interface HomeLock {
  /** Tells other processes the address of the API. */
  announce(url: string): void;
  release(): void;
}

/** Another live process has this home. */
export class HomeInUse extends Error {
  override name = 'HomeInUse';
  readonly holder: Holder;

  constructor(home: string, holder: Holder) {
    const where = holder.url ? ` at ${holder.url}` : '';
    super(
      `Lathe already runs in ${home}: '${holder.command}', pid ${holder.pid}, since ${holder.startedAt}${where}.`,
    );
    this.holder = holder;
  }
}

const fileOf = (home: string) => path.join(home, 'running.json');

/** The live process that holds `home`, or null. */
export function homeHolder(home: string): Holder | null {
  const holder = readHolder(fileOf(home));
  return holder && holder.birth !== null && processBirth(holder.pid) === holder.birth ? holder : null;
}

/** Takes the lock. Throws HomeInUse when a live process has it. */
export function lockHome(home: string, command: string): HomeLock {
  const file = fileOf(home);
  const mine: Holder = {
    pid: process.pid,
    birth: processBirth(process.pid),
    command,
    startedAt: new Date().toISOString(),
    url: null,
  };
  // Linked into place, so that nobody ever reads a half-written lock.
  const claim = `${file}.${randomBytes(6).toString('hex')}`;
  try {
    makeFolder(home, 0o711);
    writeFileSync(claim, JSON.stringify(mine), { mode: 0o644 });
  } catch (cause) {
    throw new ConfigError(`Cannot write to LATHE_HOME=${home}: ${(cause as Error).message}`, { cause });
  }
  try {
    while (!tryLink(claim, file)) {
      const holder = homeHolder(home);
      if (holder) throw new HomeInUse(home, holder);
      setAside(file, home);
    }
  } finally {
    rmSync(claim);
  }
  return {
    announce: (url) => {
      const next = `${file}.${randomBytes(6).toString('hex')}`;
      writeFileSync(next, JSON.stringify({ ...mine, url }));
      renameSync(next, file);
    },
    release: () => rmSync(file, { force: true }),
  };
}

function tryLink(claim: string, file: string): boolean {
  try {
    linkSync(claim, file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

/** Removes a dead holder's lock; one that somebody else put there just now is put back. */
function setAside(file: string, home: string): void {
  const aside = `${file}.${randomBytes(6).toString('hex')}`;
  try {
    renameSync(file, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  const moved = readHolder(aside);
  const live = moved?.birth && processBirth(moved.pid) === moved.birth;
  if (live && !tryLink(aside, file))
    throw new Error(`Two processes took the lock of ${home} at the same moment.`);
  rmSync(aside, { force: true });
}

function readHolder(file: string): Holder | null {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Holder;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw new Error(`${file} is damaged (${(error as Error).message}); remove it if nothing runs.`);
  }
}
