/**
 * `npm run bench -- <name> [options]`: one benchmark, one JSON line. A figure is always a ratio to a floor or a peer
 * that was measured in the same run. Nothing here is a test: machines differ and are shared.
 */
const benchmarks: Record<string, () => Promise<{ run(args: string[]): Promise<Record<string, unknown>> }>> = {
  gemm: () => import('./gemm.ts'),
  'train-cpu': () => import('./train-cpu.ts'),
  'decode-cpu': () => import('./decode-cpu.ts'),
  grammar: () => import('./grammar.ts'),
  kernels: () => import('./kernels.ts'),
  api: () => import('./api.ts'),
  upload: () => import('./upload.ts'),
  claim: () => import('./claim.ts'),
  sse: () => import('./sse.ts'),
};

const [name, ...args] = process.argv.slice(2);
const load = name ? benchmarks[name] : undefined;
if (!load) {
  console.error(`usage: npm run bench -- ${Object.keys(benchmarks).join('|')} [--key=value …]`);
  process.exit(2);
}
const result = await (await load()).run(args);
console.log(
  JSON.stringify({
    bench: name,
    date: new Date().toISOString().slice(0, 10),
    node: process.version,
    ...result,
  }),
);
process.exit(0);
