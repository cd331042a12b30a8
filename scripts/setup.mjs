/**
 * `node scripts/setup.mjs [--no-native] FILE ARGS…`: makes a clone ready and runs FILE in it. Installs packages when
 * package-lock.json asks for it, builds the native addon, then hands over to the Node that came with the packages.
 * Plain JavaScript for Node ≥ 20 without any package: this is the first thing a fresh clone runs.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { constants, tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const lockFile = path.join(root, '.lathe', 'setup.lock');
const OLDEST_NODE = [22, 18];
let release = () => {};

const args = process.argv.slice(2);
const withNative = args[0] !== '--no-native';
if (!withNative) args.shift();
const [file, ...rest] = args;
if (!file) fail('usage: node scripts/setup.mjs [--no-native] FILE ARGS…');

if (withNative || !installed()) {
  await locked(async () => {
    if (!installed()) install();
    if (withNative) await buildNative();
  });
}
run(chooseNode(), path.resolve(root, file), rest);

/** True when every package the lock file wants is in node_modules at that version; development ones may be left out. */
function installed() {
  const wanted = readJson(path.join(root, 'package-lock.json'));
  const present = readJson(path.join(root, 'node_modules', '.package-lock.json'));
  if (!wanted) fail(`package-lock.json is missing in ${root}: this is not a complete clone.`);
  if (!present || !existsSync(path.resolve(root, file))) return false;
  return Object.entries(wanted.packages).every(([at, { version, optional, dev, devOptional }]) => {
    const found = present.packages[at];
    return at === '' || (found ? found.version === version : Boolean(optional || dev || devOptional));
  });
}

function install() {
  say('Installing packages (npm ci)…');
  let result = npmCi([]);
  if (result.status !== 0 && /EACCES|EPERM|EROFS|root-owned/.test(result.stderr)) {
    // The cache belongs to somebody else or cannot be written: use one of our own for this once.
    const cache = mkdtempSync(path.join(tmpdir(), 'lathe-npm-'));
    result = npmCi(['--cache', cache]);
    rmSync(cache, { recursive: true, force: true });
  }
  if (result.status !== 0) fail(`npm ci failed:\n${result.stderr || result.error?.message || ''}`);
  if (!installed())
    fail(`npm ci ended well, but ${path.resolve(root, file)} or a package of the lock file is missing.`);
}

function npmCi(extra) {
  // Nothing of ours needs install scripts, and foreign ones are better not run.
  const flags = [
    'ci',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
    '--no-progress',
    ...extra,
  ];
  const cli = process.env.npm_execpath;
  const [command, prefix] = cli && /\.c?js$/.test(cli) ? [process.execPath, [cli]] : ['npm', []];
  const options = { cwd: root, encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'], maxBuffer: 1 << 26 };
  return spawnSync(command, [...prefix, ...flags], options);
}

/** The build script ends at once when the sources are those it built last: only a real build is worth a line. */
async function buildNative() {
  const script = path.join(root, 'scripts', 'build-native.mjs');
  const build = spawn(process.execPath, [script], { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] });
  const timer = setTimeout(() => say('Building the native addon…'), 1500);
  const [code] = await once(build, 'exit');
  clearTimeout(timer);
  if (code !== 0) fail(`The native addon could not be built (exit code ${code}); the reason is above.`);
}

/** The Node from the packages, else the running one when it can run TypeScript directly. */
function chooseNode() {
  const own = path.join(root, 'node_modules', `node-${process.platform}-${process.arch}`, 'bin', 'node');
  if (existsSync(own)) return own;
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major > OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor >= OLDEST_NODE[1]))
    return process.execPath;
  return fail(`Lathe needs Node ${OLDEST_NODE.join('.')} or later here; this is ${process.version}.`);
}

function run(node, program, programArgs) {
  // Node keeps what it compiles, for this process and all it starts: half the time to start is reading our sources.
  process.env.NODE_COMPILE_CACHE ??= path.join(root, 'node_modules', '.cache', 'compiled');
  const preload = pathToFileURL(path.join(root, 'src', 'fast-imports.ts')).href;
  const command = [
    node,
    '--disable-warning=ExperimentalWarning',
    '--import',
    preload,
    program,
    ...programArgs,
  ];
  // Become the program where Node can: then signals, exit code and terminal need no passing on.
  if (process.execve) {
    process.execve(node, command, process.env);
  }
  const child = spawn(node, command.slice(1), { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'])
    process.on(signal, () => child.kill(signal));
  child.on('error', (error) => fail(`Could not start ${node}: ${error.message}`));
  child.on('exit', (code, signal) => process.exit(signal ? 128 + constants.signals[signal] : code));
}

/** Runs `work` while no other setup of this clone does. A lock whose owner is dead is taken over. */
async function locked(work) {
  const claim = writeClaim();
  if (claim === null) return work(); // a folder we may not write is one nobody installs into
  for (let told = false; !tryLock(claim); await sleep(50)) {
    if (!told) say('Another setup of this folder is running; waiting for it…');
    told = true;
  }
  rmSync(claim);
  release = () => rmSync(lockFile, { force: true });
  await work();
  release();
}

/** A file with our pid, to be linked as the lock: so a lock is never seen half written. Null in a read-only folder. */
function writeClaim() {
  const claim = `${lockFile}.${process.pid}`;
  try {
    mkdirSync(path.dirname(lockFile), { recursive: true });
    writeFileSync(claim, String(process.pid));
    return claim;
  } catch (error) {
    if (['EACCES', 'EPERM', 'EROFS'].includes(error.code)) return null;
    throw error;
  }
}

function tryLock(claim) {
  try {
    linkSync(claim, lockFile);
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
  }
  const owner = read(lockFile);
  if (owner === null || alive(Number(owner))) return false;
  // Move the dead owner's lock away; should somebody have replaced it just now, put theirs back.
  const aside = `${claim}.stale`;
  try {
    renameSync(lockFile, aside);
    if (read(aside) !== owner) linkSync(aside, lockFile);
  } catch (error) {
    if (error.code !== 'ENOENT' && error.code !== 'EEXIST') throw error;
  }
  rmSync(aside, { force: true });
  return false;
}

function alive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

function read(at) {
  try {
    return readFileSync(at, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return null;
    throw error;
  }
}

function readJson(at) {
  const text = read(at);
  return text === null ? null : JSON.parse(text);
}

function say(line) {
  process.stderr.write(`${line}\n`);
}

function fail(message) {
  release();
  say(message);
  process.exit(1);
}
