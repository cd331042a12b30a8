/**
 * Seconds by native op while something runs: the ops of a CPU are synchronous, so a clock around each call is exact.
 * What is left over is the host's own time.
 */
import type { Device } from '../workers/engine/device.ts';

export interface OpSeconds {
  op: string;
  calls: number;
  seconds: number;
}

/** Runs `work` and returns the time of its native calls, the longest first. Calls of one op on unequal shapes are apart. */
export function profileOps(device: Device, work: () => void): OpSeconds[] {
  const table = device.native as unknown as Record<string, (...args: unknown[]) => unknown>;
  const found = new Map<string, OpSeconds>();
  const originals = Object.entries(table).filter(([, op]) => typeof op === 'function');
  const nameOf = (op: string, args: unknown[]) => {
    const first = args.find((value) => typeof value === 'object' && value !== null && !Array.isArray(value));
    if (first === undefined || op.startsWith('tensor')) return op;
    try {
      return `${op} [${device.native.tensorInfo(first as never).dims}]`;
    } catch {
      return op;
    }
  };
  for (const [name, op] of originals) {
    if (name === 'tensorInfo') continue;
    table[name] = (...args) => {
      const label = nameOf(name, args);
      const start = performance.now();
      const result = op(...args);
      const entry = found.get(label) ?? { op: label, calls: 0, seconds: 0 };
      entry.calls++;
      entry.seconds += (performance.now() - start) / 1000;
      found.set(label, entry);
      return result;
    };
  }
  try {
    work();
  } finally {
    for (const [name, op] of originals) table[name] = op;
  }
  return [...found.values()].sort((a, b) => b.seconds - a.seconds);
}
