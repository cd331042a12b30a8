/** Command-line options and the statistics every benchmark shares. */
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';

/** Reads `--key=value` options over typed defaults; an unknown key or a bad number is an error. */
export function options<T extends Record<string, string | number>>(args: string[], defaults: T): T {
  const chosen: Record<string, string | number> = { ...defaults };
  for (const arg of args) {
    const [, key, value] = /^--([a-z-]+)=(.+)$/.exec(arg) ?? [];
    if (!key || value === undefined || !(key in defaults))
      throw new Error(`unknown option ${arg}; known: ${Object.keys(defaults).join(', ')}`);
    const number = Number(value);
    if (typeof defaults[key] === 'number' && !Number.isFinite(number))
      throw new Error(`--${key} wants a number, got ${value}`);
    chosen[key] = typeof defaults[key] === 'number' ? number : value;
  }
  return chosen as T;
}

export function median(values: number[]): number {
  return quantile(values, 0.5);
}

/** Nearest-rank quantile, `q` in [0, 1]. */
export function quantile(values: number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(q * sorted.length) - 1))] ?? Number.NaN;
}

/** Seconds that `work` takes. */
export function seconds(work: () => unknown): number {
  const start = performance.now();
  work();
  return (performance.now() - start) / 1000;
}

/** Highest resident memory of this process so far, in MiB. */
export function peakRssMib(): number {
  return Math.round(process.resourceUsage().maxRSS / 1024);
}

/** Resident memory of another process now, in MiB (Linux). */
export function rssMib(pid: number): number {
  const kib = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Number(kib ?? Number.NaN) / 1024;
}

export function machine(): { cpu: string; cores: number } {
  return { cpu: cpus()[0]?.model.trim() ?? 'unknown', cores: availableParallelism() };
}

export const round = (value: number, digits = 3): number => Number(value.toPrecision(digits));
