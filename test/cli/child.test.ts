/**
 * A child under supervision when the machine is short of something: it cannot be started, its log cannot be opened, its
 * log grows without end. The supervisor outlives all of it.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, expect, it, vi } from 'vitest';
import { type Child, type ChildSpec, superviseChild } from '../../src/commands/child.ts';
import { lastWords, openLogFile, trimLogFile } from '../../src/commands/log-file.ts';

const folder = mkdtempSync(path.join(tmpdir(), 'lathe-child-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let child: Child | undefined;
afterEach(() => child?.kill());

/** A child whose deaths are collected; it prints a line and ends at once. */
function supervised(changes: Partial<ChildSpec> = {}) {
  const deaths: { how: string; pause: number | null }[] = [];
  child = superviseChild({
    name: 'test',
    command: ['-p', '"I lived"'],
    env: () => ({ PATH: process.env.PATH ?? '' }),
    logFile: path.join(folder, 'test.log'),
    onDeath: (how, pause) => deaths.push({ how, pause }),
    onTrouble: () => {},
    ...changes,
  });
  return deaths;
}

it('a child that the system will not start is tried again, and lives once it can', async () => {
  let tooBig = true;
  // No system takes an environment of 4 MiB in one variable: execve fails with E2BIG.
  const env = () => ({ PATH: process.env.PATH ?? '', ...(tooBig && { FILL: 'x'.repeat(4 << 20) }) });
  const deaths = supervised({ env });
  await vi.waitFor(() => expect(deaths).toHaveLength(1));
  expect(deaths[0]).toEqual({ how: expect.stringMatching(/^could not be started: .*E2BIG/), pause: 500 });
  expect(child!.pid).toBeUndefined();
  tooBig = false;
  await vi.waitFor(() => expect(deaths).toHaveLength(2), { timeout: 20_000 });
  expect(deaths[1]!.how).toMatch(/^ended with code/);
});

it('a log that cannot be opened is no reason to fall over', async () => {
  const logFile = path.join(folder, 'is-a-folder.log');
  mkdirSync(logFile);
  const deaths = supervised({ logFile });
  await vi.waitFor(() => expect(deaths.length).toBeGreaterThan(0));
  expect(deaths[0]!.how).toContain('could not be started: EISDIR');
  await child!.stop(1000);
});

it('a log is trimmed under the hands of the process that writes it', () => {
  const file = path.join(folder, 'long.log');
  const descriptor = openLogFile(file);
  for (let i = 0; i < 50; i++) writeFileSync(descriptor, `line ${i}\n`);
  trimLogFile(file, 1000);
  expect(statSync(file).size).toBeGreaterThan(100); // not too large yet
  trimLogFile(file, 100);
  expect(statSync(file).size).toBe(0);
  expect(readFileSync(`${file}.1`, 'utf8')).toMatch(/^line 0\n[\s\S]*line 49\n$/);
  writeFileSync(descriptor, 'after\n');
  expect(readFileSync(file, 'utf8')).toBe('after\n');
});

it('reads the last words of a log of any size', () => {
  const file = path.join(folder, 'huge.log');
  writeFileSync(file, `${'{"msg":"noise"}\n'.repeat(20_000)}Error: the end\n    at somewhere\n`);
  expect(lastWords(file)).toBe('Error: the end');
});
