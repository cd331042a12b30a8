/**
 * `npm run bundle [-- --out DIR] [--no-cuda]`: one .tar.xz for GPU hosts without Node or network, at most 50 MiB: a
 * stripped Node, trainer and inference with the packages they load, the addon and its sources, the shipped model, the
 * device check. The same tree gives the same bytes.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { PROJECT_ROOT } from '../src/config.ts';
import { packageFolders, reach } from './bundle/imports.ts';

const BYTES_MAX = 50 * 2 ** 20;
/** A date that depends on nothing: file times are part of an archive. */
const FILE_TIME = '2026-01-01 00:00:00Z';

/** Programs that the launcher starts; what they reach decides which packages travel. */
const ENTRIES = [
  'src/cli.ts',
  'src/fast-imports.ts',
  'src/commands/standalone.ts',
  'workers/trainer/main.ts',
  'workers/trainer/child.ts',
  'workers/inference/main.ts',
  'bench/gpu-check/main.ts',
  'bench/gpu-check/check.ts',
  'bench/gpu-check/memory-child.ts',
  'bench/gpu-check/sanitizer-child.ts',
];
/** Modules that choose among programs at run time; not all of those are in the bundle. */
const CHOOSERS = ['src/cli.ts', 'src/commands/standalone.ts'];
/** What a build on the host needs. */
const BUILD_PACKAGES = ['node-addon-api', 'node-api-headers'];

const TREE = [
  'package.json',
  'LICENSE',
  'src',
  'workers',
  'native',
  'bench',
  'migrations',
  'models/lathe-tiny',
  'examples/data',
  'scripts/build-native.mjs',
  'scripts/build-cuda.mjs',
];
const LEFT_OUT = /^(native\/build(-cuda)?|bench\/results)(\/|$)/;
const NOT_LOADED =
  /(\.d\.[cm]?ts|\.map|\.md|\.markdown|\.flow|\.tsbuildinfo)$|(^|\/)(test|tests|__tests__|docs?|example|examples|dist-types|\.github)(\/|$)/;

const { values } = parseArgs({
  options: {
    out: { type: 'string', default: path.join(PROJECT_ROOT, 'dist') },
    cuda: { type: 'boolean', default: true },
  },
  allowNegative: true,
});

const absolute = (file: string) => path.join(PROJECT_ROOT, file);
const reached = reach(ENTRIES.map(absolute), new Set(CHOOSERS.map(absolute)));
const { version } = JSON.parse(readFileSync(path.join(PROJECT_ROOT, 'package.json'), 'utf8'));
const name = `lathe-${version}-linux-${process.arch}`;

function main(): void {
  if (process.platform !== 'linux') throw new Error('A bundle holds Linux programs: make it on Linux.');
  for (const tool of ['tar', 'xz', 'strip']) requireTool(tool);
  const stage = mkdtempSync(path.join(tmpdir(), 'lathe-bundle-'));
  try {
    const root = path.join(stage, name);
    copyTree(root);
    copyPackages(root);
    copyAddons(root);
    copyNode(root);
    const file = pack(stage);
    const bytes = statSync(file).size;
    const sha256 = createHash('sha256').update(readFileSync(file)).digest('hex');
    console.log(`${file}: ${(bytes / 2 ** 20).toFixed(1)} MiB, sha256 ${sha256}`);
    if (bytes > BYTES_MAX) throw new Error(`The bundle is larger than ${BYTES_MAX / 2 ** 20} MiB.`);
  } finally {
    rmSync(stage, { recursive: true, force: true });
  }
}

function requireTool(tool: string): void {
  try {
    execFileSync(tool, ['--version'], { stdio: 'ignore' });
  } catch {
    throw new Error(`Making a bundle needs \`${tool}\`, which was not found.`);
  }
}

function copyTree(root: string): void {
  for (const item of TREE) {
    cpSync(path.join(PROJECT_ROOT, item), path.join(root, item), {
      recursive: true,
      filter: (source) => !LEFT_OUT.test(path.relative(PROJECT_ROOT, source)),
    });
  }
  // The op table of the tests, as far as the device check reads it.
  for (const module of reached.modules) {
    const item = path.relative(PROJECT_ROOT, module);
    if (!existsSync(path.join(root, item))) cpSync(module, path.join(root, item));
  }
  const own = path.join(PROJECT_ROOT, 'scripts', 'bundle');
  copyFileSync(path.join(own, 'launcher.sh'), path.join(root, 'lathe'));
  copyFileSync(path.join(own, 'README.md'), path.join(root, 'README.md'));
  chmodSync(path.join(root, 'lathe'), 0o755);
}

function copyPackages(root: string): void {
  for (const folder of packageFolders(PROJECT_ROOT, [...reached.packages, ...BUILD_PACKAGES])) {
    const from = absolute(folder);
    cpSync(from, path.join(root, folder), {
      recursive: true,
      filter: (source) => {
        const inside = path.relative(from, source);
        return !NOT_LOADED.test(inside) && !/(^|\/)node_modules(\/|$)/.test(inside);
      },
    });
  }
}

/** The plain addon always, the one with CUDA where it was built: the typed front takes whichever fits. */
function copyAddons(root: string): void {
  const folders = ['build', ...(values.cuda ? ['build-cuda'] : [])];
  for (const folder of folders) {
    const from = path.join(PROJECT_ROOT, 'native', folder);
    if (!existsSync(path.join(from, 'lathe.node'))) {
      const [what, how] = folder === 'build' ? ['addon', 'build:native'] : ['addon with CUDA', 'cuda:build'];
      throw new Error(
        `The ${what} is not built: run \`npm run ${how}\`${folder === 'build' ? '' : ', or pass --no-cuda'}.`,
      );
    }
    mkdirSync(path.join(root, 'native', folder), { recursive: true });
    for (const file of ['lathe.node', 'sources.sha256']) {
      if (existsSync(path.join(from, file)))
        copyFileSync(path.join(from, file), path.join(root, 'native', folder, file));
    }
    execFileSync('strip', ['--strip-unneeded', path.join(root, 'native', folder, 'lathe.node')]);
  }
}

function copyNode(root: string): void {
  const target = path.join(root, 'node');
  copyFileSync(process.execPath, target);
  execFileSync('strip', [target]);
  chmodSync(target, 0o755);
}

/** Names sorted, owners and times fixed: equal trees give equal archives. */
function pack(stage: string): string {
  mkdirSync(values.out, { recursive: true });
  const file = path.join(values.out, `${name}.tar.xz`);
  execFileSync(
    'tar',
    [
      ...[
        '--sort=name',
        `--mtime=${FILE_TIME}`,
        '--owner=0',
        '--group=0',
        '--numeric-owner',
        '--mode=go=rX,u+rw',
      ],
      ...['--use-compress-program', 'xz -9e -T1', '-cf', file, '-C', stage, name],
    ],
    { stdio: ['ignore', 'inherit', 'inherit'] },
  );
  return file;
}

try {
  main();
} catch (error) {
  console.error((error as Error).message);
  process.exitCode = 1;
}
