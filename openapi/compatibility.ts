/**
 * Writes docs/compatibility.md from openapi/compatibility.json: `node openapi/compatibility.ts`. With --check it only
 * compares, and fails when the page differs.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import compatibility from './compatibility.json' with { type: 'json' };

interface Entry {
  status: string;
  note?: string;
}
interface Endpoint extends Entry {
  parameters: Record<string, Entry>;
}

export const COMPATIBILITY_PAGE = fileURLToPath(new URL('../docs/compatibility.md', import.meta.url));

/** The page as text. */
export function compatibilityText(): string {
  const endpoints = Object.entries(compatibility.endpoints as Record<string, Endpoint>);
  const lines = [
    '# Compatibility with OpenAI',
    '',
    'Made from [openapi/compatibility.json](../openapi/compatibility.json), which a test walks against the running API',
    'and the types of the official SDK.',
    '',
    '| endpoint | parameters | ignored | refused by name |',
    '|---|---|---|---|',
    ...endpoints.filter(([, each]) => each.status === 'supported').map(([name, each]) => row(name, each)),
    '',
    '## Not offered',
    '',
    ...endpoints
      .filter(([, each]) => each.status === 'rejected')
      .map(([name, { note }]) => `- \`${name}\`: ${note}`),
    '',
    '## Notes',
    '',
    ...endpoints.flatMap(([name, each]) => notes(name, each)),
    ...Object.entries(compatibility.objects as Record<string, Record<string, Entry>>).flatMap(
      ([name, fields]) =>
        Object.entries(fields).flatMap(([field, { status, note }]) =>
          note ? [`- \`${name}.${field}\`${status === 'absent' ? ' (absent)' : ''}: ${note}`] : [],
        ),
    ),
  ];
  return `${lines.join('\n')}\n`;
}

function row(name: string, { parameters }: Endpoint): string {
  const of = (status: string) =>
    Object.entries(parameters)
      .filter(([, each]) => each.status === status)
      .map(([parameter]) => `\`${parameter}\``)
      .join(' ');
  return `| \`${name}\` | ${of('supported')} | ${of('accepted_and_ignored')} | ${of('rejected')} |`;
}

function notes(name: string, { status, note, parameters }: Endpoint): string[] {
  if (status !== 'supported') return [];
  return [
    ...(note ? [`- \`${name}\`: ${note}`] : []),
    ...Object.entries(parameters).flatMap(([parameter, each]) =>
      each.note ? [`- \`${name}\` \`${parameter}\`: ${each.note}`] : [],
    ),
  ];
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = compatibilityText();
  if (!process.argv.includes('--check')) await writeFile(COMPATIBILITY_PAGE, text);
  else if ((await readFile(COMPATIBILITY_PAGE, 'utf8')) !== text) {
    console.error(
      'docs/compatibility.md is not what openapi/compatibility.json says. Run: node openapi/compatibility.ts',
    );
    process.exitCode = 1;
  }
}
