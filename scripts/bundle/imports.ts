/**
 * Which packages a set of our modules needs: follows relative imports from the entries and collects the names of the
 * packages met, then their dependencies from the installed manifests. Reads text, runs nothing.
 */
import { existsSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import path from 'node:path';

const STATEMENT = /(?:^|\n)\s*(?:import|export)\s+(?!type\b)(?:[^'";]*?\sfrom\s+)?'([^']+)'/g;
const DYNAMIC = /\bimport\(\s*'([^']+)'/g;
/** Threads and child processes: started from a URL beside the module. */
const BESIDE = /new URL\(\s*'(\.[^']+\.ts)'\s*,\s*import\.meta\.url/g;
const builtin = new Set(builtinModules);

/**
 * The modules reachable from `entries`, and the names of the packages they import.
 * @param skip modules (absolute paths) whose dynamic imports are not followed: they choose among programs
 */
export function reach(
  entries: readonly string[],
  skip: ReadonlySet<string>,
): { modules: Set<string>; packages: Set<string> } {
  const packages = new Set<string>();
  const seen = new Set<string>();
  const open = [...entries];
  for (let file = open.pop(); file !== undefined; file = open.pop()) {
    if (seen.has(file)) continue;
    seen.add(file);
    const text = readFileSync(file, 'utf8');
    const patterns = skip.has(file) ? [STATEMENT] : [STATEMENT, DYNAMIC, BESIDE];
    for (const [, name = ''] of patterns.flatMap((pattern) => [...text.matchAll(pattern)])) {
      if (name.startsWith('.')) {
        const target = path.resolve(path.dirname(file), name);
        if (!existsSync(target)) throw new Error(`${file} imports ${name}, which does not exist`);
        open.push(target);
      } else if (!name.startsWith('node:') && !builtin.has(name)) packages.add(packageName(name));
    }
  }
  return { modules: seen, packages };
}

const packageName = (specifier: string) =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');

/** Folders (relative to `root`) of the packages and of everything they depend on, as npm laid them out. */
export function packageFolders(root: string, names: Iterable<string>): string[] {
  const found = new Set<string>();
  const visit = (name: string, from: string) => {
    const folder = resolvePackage(root, name, from);
    if (folder === null) throw new Error(`${name}, needed by ${from || 'our code'}, is not installed`);
    if (found.has(folder)) return;
    found.add(folder);
    const manifest = JSON.parse(readFileSync(path.join(root, folder, 'package.json'), 'utf8'));
    for (const dependency of Object.keys(manifest.dependencies ?? {})) visit(dependency, folder);
  };
  for (const name of names) visit(name, '');
  return [...found].sort();
}

/** The nearest node_modules/<name> at or above `from`, as Node looks for it. */
function resolvePackage(root: string, name: string, from: string): string | null {
  for (let at = from; ; at = path.dirname(at)) {
    const folder = path.join(at === '.' ? '' : at, 'node_modules', name);
    if (existsSync(path.join(root, folder, 'package.json'))) return folder;
    if (at === '' || at === '.') return null;
  }
}
