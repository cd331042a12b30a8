/**
 * The arrows between folders, read from the import lines themselves, and the size budget.
 * A new arrow is a design decision: it is made in docs/architecture.md first, then here.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '..');
const tracked = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
  cwd: root,
  encoding: 'utf8',
})
  .split('\n')
  .filter((file) => /^(src|workers|native)\/.*\.(ts|cc|h|cu|cuh)$/.test(file));
const text = (file: string) => readFileSync(join(root, file), 'utf8');

/** [importing file, what it imports: a repository path, or a package name] */
const arrows: [string, string][] = tracked
  .filter((file) => file.endsWith('.ts'))
  .flatMap((file) =>
    [...text(file).matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)].map((match): [string, string] => {
      const target = match[1]!;
      return [file, target.startsWith('.') ? normalize(join(dirname(file), target)) : target];
    }),
  );

const forbidden: { why: string; from: RegExp; to: RegExp; except?: RegExp }[] = [
  { why: 'the service never loads workers or the addon', from: /^src\//, to: /^(workers|native)\// },
  { why: 'the engine knows no service', from: /^workers\/engine\//, to: /^src\// },
  {
    why: 'the engine knows no database and no HTTP',
    from: /^workers\/engine\//,
    to: /^(pg|drizzle-orm.*|hono.*|node:http)$/,
  },
  {
    why: 'only device.ts opens the addon (tensor.ts may name its types)',
    from: /^workers\//,
    to: /^native\//,
    except: /^workers\/engine\/(device|tensor)\.ts$/,
  },
  { why: 'routes go through the domain', from: /^src\/http\//, to: /^src\/(db|storage|queue)\// },
  {
    why: 'trainer and inference do not know each other',
    from: /^workers\/trainer\//,
    to: /^workers\/inference\//,
  },
  {
    why: 'trainer and inference do not know each other',
    from: /^workers\/inference\//,
    to: /^workers\/trainer\//,
  },
  {
    why: 'the scheduler and the block table know no tensors',
    from: /^workers\/inference\/(scheduler|kv-blocks)\.ts$/,
    to: /^workers\/engine\//,
  },
  {
    why: 'the model runner knows no queue',
    from: /^workers\/inference\/model-runner\.ts$/,
    to: /scheduler\.ts$/,
  },
];

describe('layers', () => {
  it('reads the sources', () => {
    expect(arrows.length).toBeGreaterThan(100);
  });

  for (const rule of forbidden) {
    it(`${rule.from.source} → ${rule.to.source}: ${rule.why}`, () => {
      const broken = arrows.filter(
        ([from, to]) => rule.from.test(from) && rule.to.test(to) && !rule.except?.test(from),
      );
      expect(broken).toEqual([]);
    });
  }

  it('reads the environment in src/config.ts only', () => {
    const broken = tracked.filter((file) => file !== 'src/config.ts' && /process\.env\b/.test(text(file)));
    expect(broken).toEqual([]);
  });

  it('keeps JavaScript out of native/core and the two devices apart', () => {
    const includes = (file: string) =>
      [...text(file).matchAll(/#include\s+["<]([^">]+)[">]/g)].map((match) => match[1]!);
    const broken = tracked
      .filter((file) => /^native\/(core|cpu|cuda)\//.test(file))
      .filter((file) =>
        includes(file).some(
          (name) =>
            /napi\.h|node_api\.h/.test(name) ||
            (file.startsWith('native/cpu/') && name.includes('cuda/')) ||
            (file.startsWith('native/cuda/') && name.includes('cpu/')),
        ),
      );
    expect(broken).toEqual([]);
  });

  it('keeps every source file within 400 lines', () => {
    const long = tracked
      .map((file) => [file, text(file).split('\n').length - 1] as const)
      .filter(([, lines]) => lines > 400);
    expect(long).toEqual([]);
  });
});
