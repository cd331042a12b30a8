/**
 * Writes docs/files.md: every source file with the first sentence of its header comment. `--check` fails when the page
 * is not what the headers say, so the index cannot grow old.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const root = path.join(import.meta.dirname, '..');
const page = path.join(root, 'docs', 'files.md');
const SOURCE = /^(bench|native|openapi|scripts|src|workers)\/.*\.(ts|mjs|cc|h)$/;

/** The first sentence of a file's first comment, or an error that names the file. */
function caption(file: string): string {
  const text = readFileSync(path.join(root, file), 'utf8');
  const comment = /^(?:#!.*\n)?\s*(?:\/\*\*?([\s\S]*?)\*\/|((?:\/\/.*\n)+))/.exec(text);
  const words = (comment?.[1] ?? comment?.[2] ?? '')
    .replaceAll(/^\s*(\*|\/\/) ?/gm, '')
    .replaceAll(/\s+/g, ' ')
    .trim();
  if (!words) throw new Error(`${file} has no header comment`);
  return /^.*?\.(?= |$)/.exec(words)?.[0].slice(0, -1) ?? words;
}

const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
  cwd: root,
  encoding: 'utf8',
})
  .split('\n')
  .filter((file) => SOURCE.test(file) && existsSync(path.join(root, file)))
  .sort();

const folders = Map.groupBy(files, (file) => path.dirname(file));
const sections = [...folders].map(([folder, members]) =>
  [`## ${folder}`, ...members.map((file) => `- \`${path.basename(file)}\`: ${caption(file)}`)].join('\n'),
);
const wanted = `# Files\n\nMade from the files' own headers by \`node scripts/file-index.ts\`.\n\n${sections.join('\n\n')}\n`;

if (process.argv.includes('--check')) {
  if (!existsSync(page) || readFileSync(page, 'utf8') !== wanted) {
    console.error('docs/files.md is not what the headers say: run `npm run docs:files`');
    process.exit(1);
  }
} else {
  writeFileSync(page, wanted);
}
