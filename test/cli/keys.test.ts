/** Keys and projects on the command line: what is printed is what the API takes. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseExpiry } from '../../src/commands/keys.ts';
import { authenticate } from '../../src/domain/keys/lookup.ts';
import { useDatabase } from '../helpers/database.ts';
import { PROGRAM_FLAGS } from '../helpers/programs.ts';

const t = useDatabase();
const ROOT = path.resolve(import.meta.dirname, '../..');

function lathe(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [...PROGRAM_FLAGS, 'src/cli.ts', ...args], {
    cwd: ROOT,
    encoding: 'utf8',
    env: { ...process.env, DATABASE_URL: t.database.url },
  });
  return { status, out: stdout.trim(), err: stderr };
}
const identityOf = (key: string) => authenticate(t.database, `Bearer ${key}`);

describe('lathe keys', () => {
  it('creates keys with scopes and an end, of any project, and lists and revokes them', async () => {
    const made = lathe(
      'keys',
      'create',
      'laptop',
      '--scopes',
      'api.files.read, model.request',
      '--expires',
      '12h',
    );
    expect(made).toMatchObject({ status: 0, err: '' });
    const identity = await identityOf(made.out);
    expect(identity).toMatchObject({ kind: 'project', scopes: ['api.files.read', 'api.model.request'] });

    const project = lathe('projects', 'create', 'lab', '--organization', 'umbrella').out;
    expect(project).toMatch(/^proj_\w{24}$/);
    const reader = lathe('keys', 'create', 'reader', '--scopes', 'read-only', '--project', project).out;
    expect(await identityOf(reader)).toMatchObject({
      projectId: project,
      organization: { slug: 'umbrella' },
      scopes: ['api.all.read'],
    });
    const listed = lathe('keys', 'list', '--project', project).out;
    expect(listed).toMatch(/live +\S+ +\S+ +reader +never +api\.all\.read/);
    expect(listed).not.toContain('laptop');
    expect(lathe('keys', 'revoke', reader).status).toBe(0);
    expect(lathe('keys', 'list', '--project', project).out).toMatch(/revoked .* reader/);
  }, 60_000);

  it('creates admin keys for the organization', async () => {
    const key = lathe('keys', 'create', 'root', '--admin').out;
    expect(key).toMatch(/^sk-lathe-admin-\w{12}-\w{43}$/);
    expect(await identityOf(key)).toMatchObject({
      kind: 'admin',
      projectId: '',
      organization: { slug: 'lathe' },
    });
    expect(lathe('keys', 'list', '--admin').out).toMatch(
      /sk-lathe-admin-\w{12}-… +live .* root +never +admin/,
    );
    expect(lathe('keys', 'revoke', key).status).toBe(0);
    expect(lathe('keys', 'revoke', key).status).toBe(1);
  }, 60_000);

  it('says in a sentence what is wrong', () => {
    for (const [args, status, sentence] of [
      [
        ['keys', 'create', 'x', '--scopes', 'api.nothing'],
        1,
        "'api.nothing' is not a scope of a project key.",
      ],
      [['keys', 'create', 'x', '--project', 'proj_none'], 1, 'No such project: proj_none'],
      [['keys', 'create', 'x', '--expires', '2020-01-01'], 2, '--expires 2020-01-01 is no time ahead'],
      [['projects', 'archive', 'proj_none'], 1, 'No such project: proj_none'],
      [['projects', 'create', 'x', '--organization', 'A:B'], 1, "'A:B' cannot name an organization"],
    ] as const) {
      const ended = lathe(...args);
      expect([args, ended.status]).toEqual([args, status]);
      expect(ended.err).toContain(sentence);
      expect(ended.err).not.toMatch(/\n\s+at /);
    }
  }, 60_000);

  it('archives projects, but not the last one', async () => {
    const id = lathe('projects', 'create', 'short').out;
    const key = lathe('keys', 'create', 'k', '--project', id).out;
    expect(lathe('projects', 'archive', id).status).toBe(0);
    expect(await identityOf(key)).toBeNull();
    const listed = lathe('projects', 'list').out;
    expect(listed).toMatch(new RegExp(`${id} +archived +\\S+ +lathe +short`));
    const first = /^(proj_\w+) +active +\S+ +lathe/m.exec(listed)?.[1] ?? '';
    expect(lathe('projects', 'archive', first).err).toContain('last active project');
  }, 60_000);
});

describe('parseExpiry', () => {
  it('takes spans and dates ahead, and nothing else', () => {
    const now = Date.parse('2026-06-01T00:00:00Z');
    expect(parseExpiry('30d', now)).toEqual(new Date('2026-07-01T00:00:00Z'));
    expect(parseExpiry('0.5d', now)).toEqual(new Date('2026-06-01T12:00:00Z'));
    expect(parseExpiry('90m', now)).toEqual(new Date('2026-06-01T01:30:00Z'));
    expect(parseExpiry('2026-12-31', now)).toEqual(new Date('2026-12-31T00:00:00Z'));
    for (const text of ['', '0d', '-1d', '30', 'd', '2026-05-31', '31.12.2026', '2026-13-01', 'NaNd'])
      expect([text, parseExpiry(text, now)]).toEqual([text, null]);
  });
});
