// Builds native/build-cuda/lathe.node: the addon with the CUDA backend beside the CPU's. Needs nvcc (CUDA 12.8 or
// later: $CUDA_HOME, /usr/local/cuda or the PATH) besides what build-native.mjs needs; no GPU, no driver, no network.
// Options: --jobs <n>, --archs <80;90>.
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { sourceHash } from './native-sources.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const source = join(root, 'native');
const build = join(source, 'build-cuda');
const tree = join(build, '.cmake');
const addon = join(build, 'lathe.node');
const stamp = join(build, 'sources.sha256');
const log = join(build, 'build.log');

const OLDEST_NVCC = [12, 8];

function fail(sentence) {
  process.stderr.write(`${sentence}\n`);
  process.exit(1);
}

/** The version that nvcc reports, or null when it does not start. */
function nvccVersion(path) {
  const run = spawnSync(path, ['--version'], { encoding: 'utf8' });
  const found = run.status === 0 ? /release (\d+)\.(\d+)/.exec(run.stdout) : null;
  return found ? [Number(found[1]), Number(found[2])] : null;
}

/** The compiler itself, not a wrapper: its folder's parent holds the headers and the runtime library. */
function findNvcc() {
  const homes = [process.env.CUDA_HOME, process.env.CUDA_PATH, '/usr/local/cuda', '/opt/cuda'];
  const candidates = homes.filter(Boolean).map((home) => join(home, 'bin', 'nvcc'));
  for (const folder of (process.env.PATH ?? '').split(':')) if (folder) candidates.push(join(folder, 'nvcc'));
  for (const path of candidates) {
    const toolkit = join(dirname(path), '..');
    const complete = ['include/cuda_runtime.h', 'lib64/libcudart_static.a'].every((file) =>
      existsSync(join(toolkit, file)),
    );
    if (!existsSync(path) || !complete) continue;
    const version = nvccVersion(path);
    if (version === null) continue;
    if (version[0] * 100 + version[1] < OLDEST_NVCC[0] * 100 + OLDEST_NVCC[1]) {
      fail(
        `Building with CUDA needs nvcc ${OLDEST_NVCC.join('.')} or later; ${path} is ${version.join('.')}.`,
      );
    }
    return { path, version: version.join('.') };
  }
  return fail(
    'Building with CUDA needs nvcc with its headers and libcudart_static.a, which was not found in CUDA_HOME, ' +
      '/usr/local/cuda or the PATH. Install the CUDA toolkit (no driver is needed to build).',
  );
}

/** The stamp's second line: the CUDA sources, the compiler and what it compiles for. */
function cudaHash(nvcc, archs) {
  const hash = createHash('sha256').update(`${nvcc.version} ${archs}\n`);
  const folder = join(source, 'cuda');
  for (const name of readdirSync(folder).sort()) {
    if (name !== 'README.md') hash.update(`${name}\n`).update(readFileSync(join(folder, name)));
  }
  return hash.digest('hex');
}

function run(args) {
  const result = spawnSync('cmake', args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  const output = `${result.stdout ?? ''}\n${result.stderr ?? ''}`;
  writeFileSync(log, `$ cmake ${args.join(' ')}\n${output}`, { flag: 'a' });
  if (result.error) fail('Building the native addon needs cmake 3.20 or later, which was not found.');
  if (result.status === 0) return;
  const errors = output.split('\n').filter((line) => /error/i.test(line));
  fail(
    `The addon with CUDA did not build; the whole output is in ${relative(root, log)}.\n${errors.slice(0, 20).join('\n')}`,
  );
}

const { values } = parseArgs({
  options: {
    jobs: { type: 'string', default: String(availableParallelism()) },
    archs: { type: 'string', default: '80;90' },
  },
});
const nvcc = findNvcc();
const wanted = `${sourceHash()}\n${cudaHash(nvcc, values.archs)}\n`;
if (existsSync(addon) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) {
  console.log('native addon with CUDA: up to date');
} else {
  const start = performance.now();
  mkdirSync(tree, { recursive: true });
  writeFileSync(log, '');
  run([
    ...['-S', source, '-B', tree, '-DCMAKE_BUILD_TYPE=Release', `-DADDON_FOLDER=${build}`],
    ...['-DLATHE_CUDA=ON', `-DLATHE_NVCC=${nvcc.path}`, `-DLATHE_CUDA_ARCHS=${values.archs}`],
    `-DCMAKE_CXX_COMPILER=${process.platform === 'darwin' ? 'clang++' : 'g++'}`,
  ]);
  run(['--build', tree, '-j', values.jobs]);
  execFileSync(process.execPath, ['-e', `require(${JSON.stringify(addon)})`], { stdio: 'inherit' });
  writeFileSync(stamp, wanted);
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.log(`native addon with CUDA: built in ${seconds} s (nvcc ${nvcc.version}, ${values.archs})`);
}
