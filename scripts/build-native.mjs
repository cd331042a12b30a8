// Builds native/build/lathe.node with CMake, or does nothing when the sources have not changed since.
// Plain JavaScript for the system's Node (20 or later); needs cmake ≥ 3.20 and a C++20 compiler, no network.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sourceHash } from './native-sources.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const source = join(root, 'native');
const build = join(source, 'build');
// Hidden from TypeScript's include: CMake names its timestamp files *.ts.
const tree = join(build, '.cmake');
const addon = join(build, 'lathe.node');
const stamp = join(build, 'sources.sha256');
const log = join(build, 'build.log');

function fail(sentence) {
  process.stderr.write(`${sentence}\n`);
  process.exit(1);
}

/** The version a tool reports, or null when it is not installed. */
function versionOf(tool, args) {
  const run = spawnSync(tool, args, { encoding: 'utf8' });
  if (run.error || run.status !== 0) return null;
  return /(\d+)\.(\d+)/.exec(run.stdout)?.slice(1, 3).map(Number) ?? [Number.parseInt(run.stdout, 10), 0];
}

function requireTools() {
  const install = 'Install them with your package manager, e.g. `apt-get install cmake g++ make`.';
  const cmake = versionOf('cmake', ['--version']);
  if (!cmake) fail(`Building the native addon needs cmake 3.20 or later, which was not found. ${install}`);
  if (cmake[0] < 3 || (cmake[0] === 3 && cmake[1] < 20)) {
    fail(`Building the native addon needs cmake 3.20 or later; this one is ${cmake.join('.')}. ${install}`);
  }
  if (!versionOf('make', ['--version']))
    fail(`Building the native addon needs make, which was not found. ${install}`);
  const compiler = process.platform === 'darwin' ? 'clang++' : 'g++';
  const version = versionOf(compiler, ['-dumpversion']);
  const oldest = process.platform === 'darwin' ? 15 : 12;
  if (!version)
    fail(`Building the native addon needs ${compiler} ${oldest} or later, which was not found. ${install}`);
  if (version[0] < oldest) {
    fail(
      `Building the native addon needs ${compiler} ${oldest} or later; this one is ${version[0]}. ${install}`,
    );
  }
  for (const header of ['node-api-headers/include/node_api.h', 'node-addon-api/napi.h']) {
    if (!existsSync(join(root, 'node_modules', header))) {
      fail(`Building the native addon needs node_modules/${header}: run \`npm install\` first.`);
    }
  }
  return compiler;
}

function run(args) {
  const result = spawnSync('cmake', args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  writeFileSync(log, `$ cmake ${args.join(' ')}\n${result.stdout ?? ''}${result.stderr ?? ''}`, {
    flag: 'a',
  });
  if (result.status === 0) return;
  const output = `${result.stdout ?? ''}\n${result.stderr ?? ''}`.split('\n');
  const errors = output.filter((line) => /error/i.test(line)).slice(0, 20);
  fail(
    `The native addon did not build; the whole output is in ${relative(root, log)}.\n${errors.join('\n')}`,
  );
}

const hash = sourceHash();
if (existsSync(addon) && existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) {
  console.log('native addon: up to date');
} else {
  const compiler = requireTools();
  const start = performance.now();
  mkdirSync(tree, { recursive: true });
  writeFileSync(log, '');
  run([
    '-S',
    source,
    '-B',
    tree,
    '-DCMAKE_BUILD_TYPE=Release',
    `-DADDON_FOLDER=${build}`,
    `-DCMAKE_CXX_COMPILER=${compiler}`,
  ]);
  run(['--build', tree, '-j', String(availableParallelism())]);
  // A file that loads is part of being built: undefined symbols show up here and not in the first job.
  execFileSync(process.execPath, ['-e', `require(${JSON.stringify(addon)})`], { stdio: 'inherit' });
  writeFileSync(stamp, hash);
  console.log(`native addon: built in ${((performance.now() - start) / 1000).toFixed(1)} s`);
}
