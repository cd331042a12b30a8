/**
 * scripts/setup.mjs in a folder made for it: what makes it install, that it installs once however many ask, and that
 * arguments, exit code and signals go through. A program named npm on the PATH stands in for the real one.
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
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const ROOT = path.resolve(import.meta.dirname, '../..');
let clone: string;

/** Stands in for npm: notes each call, takes a while, and installs the one package that the lock file names. */
const NPM = `#!/bin/sh
echo "npm $*" >> "$CALLS"
sleep 0.3
[ -z "$NPM_FAILS" ] || case "$*" in *--cache*) ;; *) echo "$NPM_FAILS" >&2; exit 1 ;; esac
mkdir -p node_modules/x
sed 's/"lockfileVersion": 3/"lockfileVersion": 3, "hidden": true/' package-lock.json > node_modules/.package-lock.json
`;

beforeEach(() => {
  clone = mkdtempSync(path.join(tmpdir(), 'lathe-setup-'));
  mkdirSync(path.join(clone, 'bin'));
  mkdirSync(path.join(clone, 'src'));
  cpSync(path.join(ROOT, 'scripts/setup.mjs'), path.join(clone, 'scripts/setup.mjs'));
  writeFileSync(path.join(clone, 'src/fast-imports.ts'), '');
  writeFileSync(path.join(clone, 'package.json'), '{"type":"module"}');
  lock('1.0.0');
  writeFileSync(path.join(clone, 'bin/npm'), NPM);
  chmodSync(path.join(clone, 'bin/npm'), 0o755);
  build('');
  writeFileSync(
    path.join(clone, 'program.ts'),
    'const args: string[] = process.argv.slice(2);\nconsole.log(args.join("|"));',
  );
});
afterEach(() => rmSync(clone, { recursive: true, force: true }));

function lock(version: string) {
  const packages = {
    '': {},
    'node_modules/x': { version },
    'node_modules/other-platform': { version, optional: true },
  };
  writeFileSync(
    path.join(clone, 'package-lock.json'),
    JSON.stringify({ lockfileVersion: 3, packages }, null, 1),
  );
}

/** The native build, which counts its runs. */
function build(rest: string) {
  const note = `import { appendFileSync } from 'node:fs';\nappendFileSync(process.env.CALLS, 'build\\n');\n`;
  writeFileSync(path.join(clone, 'scripts/build-native.mjs'), note + rest);
}

const environment = (extra: Record<string, string> = {}) => ({
  PATH: `${path.join(clone, 'bin')}:${process.env.PATH}`,
  CALLS: path.join(clone, 'calls'),
  ...extra,
});

const setup = (args: string[], extra?: Record<string, string>) => {
  const command = [path.join(clone, 'scripts/setup.mjs'), ...args];
  return spawnSync(process.execPath, command, { cwd: '/', env: environment(extra), encoding: 'utf8' });
};
const calls = () =>
  existsSync(path.join(clone, 'calls'))
    ? readFileSync(path.join(clone, 'calls'), 'utf8').trim().split('\n')
    : [];
const installs = () => calls().filter((call) => call.startsWith('npm ci')).length;

describe('setup', () => {
  it('installs, builds, and runs the program with its arguments', () => {
    const { status, stdout, stderr } = setup(['program.ts', 'a', 'b c']);
    expect({ status, stdout }).toEqual({ status: 0, stdout: 'a|b c\n' });
    expect(stderr).toBe('Installing packages (npm ci)…\n');
    expect(calls()[0]).toContain('--ignore-scripts');
    expect(calls().at(-1)).toBe('build');
  });

  it('says and installs nothing when all is there, and installs again when the lock file changed', () => {
    setup(['program.ts']);
    expect(setup(['program.ts'])).toMatchObject({ status: 0, stderr: '' });
    expect(installs()).toBe(1);
    lock('1.0.1');
    setup(['program.ts']);
    expect(installs()).toBe(2);
  });

  it('has Node keep what it compiles beside the packages, unless told where', () => {
    writeFileSync(path.join(clone, 'program.ts'), 'console.log(process.env.NODE_COMPILE_CACHE as string);');
    const kept = path.join(clone, 'node_modules/.cache/compiled');
    expect(setup(['program.ts']).stdout).toBe(`${kept}\n`);
    expect(readdirSync(kept, { recursive: true, withFileTypes: true }).some((e) => e.isFile())).toBe(true);
    const told = path.join(clone, 'elsewhere');
    expect(setup(['program.ts'], { NODE_COMPILE_CACHE: told }).stdout).toBe(`${told}\n`);
  });

  it('leaves the native build out when told to', () => {
    setup(['--no-native', 'program.ts']);
    expect(calls()).not.toContain('build');
  });

  it('installs once when several start together', async () => {
    const all = await Promise.all(
      [1, 2, 3, 4].map((n) => {
        const command = [path.join(clone, 'scripts/setup.mjs'), 'program.ts', String(n)];
        const child = spawn(process.execPath, command, { env: environment() });
        return new Promise<number | null>((resolve) => child.once('exit', resolve));
      }),
    );
    expect(all).toEqual([0, 0, 0, 0]);
    expect(installs()).toBe(1);
    expect(existsSync(path.join(clone, '.lathe/setup.lock'))).toBe(false);
  });

  it('takes over the lock of a setup that was killed', () => {
    mkdirSync(path.join(clone, '.lathe'));
    const dead = spawnSync(process.execPath, ['-e', '']).pid;
    writeFileSync(path.join(clone, '.lathe/setup.lock'), String(dead));
    expect(setup(['program.ts'])).toMatchObject({ status: 0 });
  });

  it('uses a cache of its own when the usual one cannot be written', () => {
    expect(setup(['program.ts', 'x'], { NPM_FAILS: 'npm error code EACCES' })).toMatchObject({
      status: 0,
      stdout: 'x\n',
    });
    expect(installs()).toBe(2);
  });

  it('stops with the reason when installing or building fails', () => {
    const failed = setup(['program.ts'], { NPM_FAILS: 'npm error 404 no such package' });
    expect(failed).toMatchObject({ status: 1, stdout: '' });
    expect(failed.stderr).toContain('404 no such package');
    build('console.error("needs g++"); process.exit(3);');
    const unbuilt = setup(['program.ts']);
    expect(unbuilt).toMatchObject({ status: 1, stdout: '' });
    expect(unbuilt.stderr).toMatch(/needs g\+\+[\s\S]*could not be built \(exit code 3\)/);
    expect(existsSync(path.join(clone, '.lathe/setup.lock'))).toBe(false);
  });

  it('passes exit code and signals on', async () => {
    writeFileSync(path.join(clone, 'code.ts'), 'process.exit(7);');
    expect(setup(['code.ts']).status).toBe(7);
    writeFileSync(
      path.join(clone, 'wait.ts'),
      'process.on("SIGTERM", () => { console.log("asked"); process.exit(5); });\nconsole.log("up");\nsetInterval(() => {}, 1000);',
    );
    const command = [path.join(clone, 'scripts/setup.mjs'), 'wait.ts'];
    const child: ChildProcess = spawn(process.execPath, command, { env: environment() });
    let out = '';
    child.stdout!.on('data', (chunk) => {
      out += chunk;
      if (out === 'up\n') child.kill('SIGTERM');
    });
    expect(await new Promise((resolve) => child.once('exit', resolve))).toBe(5);
    expect(out).toBe('up\nasked\n');
  });
});
