// The sources that every build of the native addon is made of, and their hash. Plain JavaScript, no dependency.
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const source = join(dirname(fileURLToPath(import.meta.url)), '..', 'native');

/** Build folders, the types, and the CUDA part, which build-cuda.mjs adds to an addon of its own. */
const NOT_SOURCES = new Set(['build', 'build-cuda', 'cuda', 'index.ts', 'ops.ts']);

/** Every file that decides what the CPU's addon is, in a fixed order. */
function sourceFiles(folder = source) {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => !NOT_SOURCES.has(entry.name))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = join(folder, entry.name);
      return entry.isDirectory() ? sourceFiles(path) : [path];
    });
}

/** Of the platform and every source file. */
export function sourceHash() {
  const hash = createHash('sha256').update(`${process.platform} ${process.arch}\n`);
  for (const path of sourceFiles()) hash.update(`${relative(source, path)}\n`).update(readFileSync(path));
  return hash.digest('hex');
}
