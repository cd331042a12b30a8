// Reads ptxas' resource reports of the last build with CUDA and fails when a kernel of native/cuda/hot-kernels.txt
// spills registers or was not compiled. Prints one line per kernel that uses local memory. Needs no GPU.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const native = join(dirname(fileURLToPath(import.meta.url)), '..', 'native');

/** Every kernel of the reports: name (mangled), architecture, spilled bytes, stack bytes and registers. */
export function readReports(folder) {
  const kernels = [];
  for (const file of readdirSync(folder).filter((name) => name.endsWith('.ptxas'))) {
    let current = null;
    for (const line of readFileSync(join(folder, file), 'utf8').split('\n')) {
      const entry = /Compiling entry function '([^']+)' for '(sm_\d+\w?)'/.exec(line);
      if (entry) {
        current = { file, name: entry[1], arch: entry[2], spills: null, stack: null, registers: null };
        kernels.push(current);
      }
      const memory = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
      if (memory && current && current.spills === null) {
        current.stack = Number(memory[1]);
        current.spills = Number(memory[2]) + Number(memory[3]);
      }
      const used = /Used (\d+) registers/.exec(line);
      if (used && current) current.registers = Number(used[1]);
    }
  }
  return kernels;
}

/** The fragments of names in hot-kernels.txt. */
export function hotNames(text) {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
}

/** Sentences about hot kernels that spill, were not found, or whose report could not be read. */
export function complaints(kernels, hot) {
  const found = [];
  for (const fragment of hot) {
    const matches = kernels.filter(({ name }) => name.includes(fragment));
    if (matches.length === 0) found.push(`no kernel's name contains "${fragment}"`);
    for (const { name, arch, spills } of matches) {
      if (spills === null) found.push(`${name} (${arch}): ptxas reported no spills, not even 0`);
      else if (spills > 0) found.push(`${name} (${arch}) spills ${spills} bytes`);
    }
  }
  return found;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const folder = join(native, 'build-cuda', '.cmake', 'cuda');
  if (!existsSync(folder)) {
    process.stderr.write('There is no build with CUDA: run `npm run cuda:build`.\n');
    process.exit(1);
  }
  const kernels = readReports(folder);
  for (const { name, arch, spills, stack, registers } of kernels) {
    if (stack > 0)
      console.log(`${arch} ${name}: ${registers} registers, stack ${stack}, spills ${spills} bytes`);
  }
  const wrong = complaints(kernels, hotNames(readFileSync(join(native, 'cuda', 'hot-kernels.txt'), 'utf8')));
  for (const sentence of wrong) console.error(sentence);
  console.log(`${kernels.length} kernels read, ${wrong.length} complaint${wrong.length === 1 ? '' : 's'}`);
  if (wrong.length > 0 || kernels.length === 0) process.exit(1);
}
