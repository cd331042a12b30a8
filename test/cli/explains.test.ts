/** What a person reads on the first day when the database or the disk is not what it should be: a sentence, no stack. */
import { spawnSync } from 'node:child_process';
import { afterAll, expect, it, vi } from 'vitest';
import { useDatabase } from '../helpers/database.ts';
import { killServices, lathe, makeHome, removeHome } from '../helpers/service.ts';

vi.setConfig({ testTimeout: 60_000 });
const holder = useDatabase();
const home = makeHome();
afterAll(() => {
  killServices();
  removeHome(home);
});

it.each(['migrate', 'up', 'trainer'])('lathe %s: a database that is not there', async (command) => {
  const answer = await lathe(home, [command], { DATABASE_URL: 'postgres://me:hidden@127.0.0.1:1/lathe' });
  expect(answer.status).toBe(1);
  expect(answer.stderr).toBe(
    'The database cannot be used: connect ECONNREFUSED 127.0.0.1:1. Check DATABASE_URL, and that it runs.\n',
  );
});

it('a database that was never migrated, and one that does not let us in', async () => {
  const url = new URL(holder.database.url);
  url.searchParams.set('options', '-c search_path=nothing_here');
  const empty = await lathe(home, ['trainer'], { DATABASE_URL: url.href });
  expect(empty.stderr).toMatch(
    /^The database is not of this version \(.*base_models.*\): run `lathe migrate`/,
  );
  url.password = 'wrong';
  const locked = await lathe(home, ['keys', 'list'], { DATABASE_URL: url.href });
  expect(locked.stderr).toMatch(/^The database cannot be used: password authentication failed/);
  expect(locked.stderr.trim().split('\n')).toHaveLength(1);
});

const small = makeHome();
// Needs the right to mount; the sentence itself is made from what Postgres and the system say.
const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m,mode=711', 'tmpfs', small]).status === 0;
afterAll(() => {
  if (mounted) spawnSync('umount', [small]);
  removeHome(small);
});
it.runIf(mounted)('a disk without room for the database', async () => {
  const answer = await lathe(small, ['up']);
  expect(answer.status).toBe(1);
  expect(answer.stderr).toContain(`The embedded Postgres has no room: the disk of ${small} is full.`);
  expect(answer.stderr).not.toMatch(/^ {4}at /m);
});
