/**
 * The op suite under compute-sanitizer, where the machine has it: invalid accesses (memcheck) and races in shared memory
 * (racecheck). The pool hands out parts of larger allocations, so an access that leaves its block for a neighbour's is
 * not seen here; the suite's comparisons are there for that.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import type { Device } from '../../workers/engine/device.ts';
import type { Context } from './report.ts';

const TOOLS = ['memcheck', 'racecheck'] as const;
/** Rows begin only in the first so many seconds; a tool that needs longer than twice that is ended. */
const ROW_SECONDS = 25;
const FOUND = 99;
/** A fault in a kernel is told for every thread. */
const OUTPUT_BYTES = 256 * 2 ** 20;
/** compute-sanitizer 12 and later. */
const PLACES = ['/usr/local/cuda/bin', '/usr/local/cuda/compute-sanitizer', '/opt/cuda/bin'];

export function checkSanitizer(device: Device, { report, deadline }: Context): void {
  if (device.kind !== 'cuda') return;
  for (const tool of TOOLS) {
    const key = `sanitizer_${tool}_clean`;
    const name = `op suite under compute-sanitizer, ${tool}`;
    report.keys[key] = null;
    const program = find();
    if (program === null || performance.now() > deadline) {
      report.measure(
        name,
        program === null ? 'not run: compute-sanitizer was not found' : 'left out: no time was left',
      );
      continue;
    }
    const script = path.join(import.meta.dirname, 'sanitizer-child.ts');
    const command = [process.execPath, ...process.execArgv, script, device.kind, String(ROW_SECONDS)];
    const args = ['--tool', tool, '--error-exitcode', String(FOUND), '--target-processes', 'all', ...command];
    const run = spawnSync(program, args, {
      encoding: 'utf8',
      timeout: 2 * ROW_SECONDS * 1000,
      maxBuffer: OUTPUT_BYTES,
    });
    const told = /\{"rows":(\d+),"of":(\d+)\}/.exec(run.stdout ?? '');
    if (run.error || (run.status !== 0 && run.status !== FOUND)) {
      const reason = run.error?.message ?? `exit code ${run.status}`;
      report.measure(name, `not run: ${reason}`);
      continue;
    }
    report.keys[key] = run.status === 0;
    const rows = told === null ? 'rows unknown' : `${told[1]} of ${told[2]} rows`;
    const summary = /ERROR SUMMARY: .*|RACECHECK SUMMARY: .*/.exec(run.stdout)?.[0] ?? '';
    report.judge(name, `${rows}; ${summary}`, 'nothing found', run.status === 0 && Number(told?.[1]) > 0);
  }
}

function find(): string | null {
  const folders = [...(process.env.PATH ?? '').split(':'), ...PLACES];
  const programs = folders.map((folder) => path.join(folder, 'compute-sanitizer'));
  return programs.find((program) => existsSync(program)) ?? null;
}
