/**
 * `npm run bench -- <name> [options]`: one benchmark, one JSON line. With `--save` (or `--save=label`) it is also written
 * to bench/results/<name>[-label]-<date>.json. A figure is always a ratio to a floor or a peer
 * that was measured in the same run. Nothing here is a test: machines differ and are shared.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const benchmarks: Record<string, () => Promise<{ run(args: string[]): Promise<Record<string, unknown>> }>> = {
  gemm: () => import('./gemm.ts'),
  'train-cpu': () => import('./train-cpu.ts'),
  'prefill-cpu': () => import('./prefill-cpu.ts'),
  'decode-cpu': () => import('./decode-cpu.ts'),
  grammar: () => import('./grammar.ts'),
  kernels: () => import('./kernels.ts'),
  api: () => import('./api.ts'),
  upload: () => import('./upload.ts'),
  claim: () => import('./claim.ts'),
  sse: () => import('./sse.ts'),
};

const [name, ...given] = process.argv.slice(2);
const load = name ? benchmarks[name] : undefined;
const saved = given.find((arg) => /^--save(=|$)/.test(arg));
const label = saved?.split('=')[1];
if (!load || (label !== undefined && !/^[a-z0-9.-]+$/.test(label))) {
  console.error(
    `usage: npm run bench -- ${Object.keys(benchmarks).join('|')} [--save[=label]] [--key=value …]`,
  );
  process.exit(2);
}
const result = {
  bench: name,
  date: new Date().toISOString().slice(0, 10),
  node: process.version,
  ...(await (await load()).run(given.filter((arg) => arg !== saved))),
};
if (saved) {
  const folder = path.join(import.meta.dirname, 'results');
  mkdirSync(folder, { recursive: true });
  const file = [name, label, result.date].filter(Boolean).join('-');
  const { python: _, ...kept } = result as Record<string, unknown>; // a path of this machine
  writeFileSync(path.join(folder, `${file}.json`), `${JSON.stringify(kept, null, 2)}\n`);
}
console.log(JSON.stringify(result));
process.exit(0);
