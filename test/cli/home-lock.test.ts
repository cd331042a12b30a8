/** One service per home: who may have the lock, and when it is taken over. */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { HomeInUse, homeHolder, lockHome } from '../../src/commands/home-lock.ts';
import { makeHome, removeHome } from '../helpers/service.ts';

const homes: string[] = [];
let home: string;

beforeEach(() => {
  home = makeHome();
  homes.push(home);
});
afterAll(() => {
  for (const each of homes) removeHome(each);
});

const file = () => path.join(home, 'running.json');
const MODULE = path.resolve(import.meta.dirname, '../../src/commands/home-lock.ts');

/** A process that tries for the lock, prints won or lost, and keeps what it won until it is killed. */
function contender() {
  const script = `
    const { lockHome } = await import('${MODULE}');
    try { lockHome('${home}', 'contender'); console.log('won'); setInterval(() => {}, 1000); }
    catch (error) { console.log(error.name === 'HomeInUse' ? 'lost' : error.stack); }`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const said = new Promise<string>((resolve) =>
    child.stdout.once('data', (chunk) => resolve(String(chunk).trim())),
  );
  return { child, said };
}

describe('the lock of a home', () => {
  it('is held once, names its holder, and is free again after release', () => {
    const lock = lockHome(home, 'lathe up');
    lock.announce('http://127.0.0.1:1234');
    expect(homeHolder(home)).toMatchObject({
      pid: process.pid,
      command: 'lathe up',
      url: 'http://127.0.0.1:1234',
    });
    expect(() => lockHome(home, 'lathe keys')).toThrow(HomeInUse);
    expect(() => lockHome(home, 'lathe keys')).toThrow(`'lathe up', pid ${process.pid}`);
    lock.release();
    expect(homeHolder(home)).toBeNull();
    lockHome(home, 'lathe keys').release();
    expect(readdirSync(home)).toEqual([]);
  });

  it('is taken over from a process that was killed, also when its pid lives on as another', async () => {
    const { child, said } = contender();
    expect(await said).toBe('won');
    expect(() => lockHome(home, 'x')).toThrow(HomeInUse);
    child.kill('SIGKILL');
    await new Promise((resolve) => child.once('exit', resolve));
    expect(homeHolder(home)).toBeNull();
    lockHome(home, 'lathe up').release();
    // A pid that is alive, but born at another time than the lock says.
    writeFileSync(
      file(),
      JSON.stringify({ pid: process.pid, birth: '1', command: 'old', startedAt: '', url: null }),
    );
    lockHome(home, 'lathe up').release();
  });

  it('goes to exactly one of many that find a dead holder at the same time', async () => {
    writeFileSync(file(), JSON.stringify({ pid: 1, birth: '-1', command: 'dead', startedAt: '', url: null }));
    const all = Array.from({ length: 5 }, contender);
    const results = await Promise.all(all.map(({ said }) => said));
    expect(results.sort()).toEqual(['lost', 'lost', 'lost', 'lost', 'won']);
    for (const { child } of all) child.kill('SIGKILL');
  });

  it('says which setting is wrong when the home cannot be written', () => {
    writeFileSync(path.join(home, 'file'), '');
    expect(() => lockHome(path.join(home, 'file', 'inside'), 'lathe up')).toThrow(
      /^Cannot write to LATHE_HOME=.*inside/,
    );
  });

  it('is not guessed at when the file is damaged', () => {
    writeFileSync(file(), '{"pid": 12');
    expect(() => lockHome(home, 'lathe up')).toThrow(/running\.json is damaged/);
    expect(readFileSync(file(), 'utf8')).toBe('{"pid": 12');
  });
});
